"""What a run is said to need grows with what it holds."""

from lowbit.models.llama import Llama, LlamaConfig
from lowbit.recipes.memory import need
from lowbit.recipes.plan import plan


def test_a_block_solved_together_needs_its_weights_many_times_over():
    """Soft weights, gradients and what a pass keeps; statistics only where the start needs some; two streams for the model's target."""
    model = Llama(LlamaConfig(40, 64, 128, 2, 2, 1, 32, 64))
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    found = {
        s: need(model, plan(model, "int4 g32", s), 8, 16, streamed=True) for s in ("rtn", "gptq", "signround", "signround:target=block")
    }
    assert found["signround"].work > 4 * 14 * block > found["gptq"].work
    assert found["signround"].statistics == found["rtn"].statistics == 0 < found["gptq"].statistics
    assert found["signround"].hidden == 2 * found["signround:target=block"].hidden == 2 * found["gptq"].hidden
    started = need(model, plan(model, "int4 g32", "signround:start=gptq"), 8, 16, streamed=True)
    assert started.statistics >= found["gptq"].statistics
