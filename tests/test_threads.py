"""One thread inside, the number from before afterwards."""

import threading

import pytest
import torch

from lowbit.threads import one_thread, workers


def test_the_number_of_threads_comes_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
            with one_thread():
                pass
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_answer_in_order_and_run_torch_on_one_thread(count: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        with workers() as team:
            assert team.count == count
            seen = list(team.each(lambda i: (i, torch.get_num_threads(), threading.get_ident()), range(7)))
        assert [i for i, _, _ in seen] == list(range(7))
        assert {threads for _, threads, _ in seen} == {1}
        assert (threading.get_ident() in {who for _, _, who in seen}) == (count == 1)
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError), workers() as team:
        list(team.each(lambda i: 1 // i, [1, 0, 2]))


def test_a_device_takes_one_piece_of_work_after_the_other() -> None:
    with workers("meta") as team:
        assert team.count == 1
