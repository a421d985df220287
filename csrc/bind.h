// Parts of the binding that have files of their own.
#pragma once
#include <nanobind/nanobind.h>

void bind_decoder(nanobind::module_& m);
