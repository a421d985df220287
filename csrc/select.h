// Which target runs here.
#pragma once
#include <string>
#include <vector>

#include "ops.h"

namespace lowbit {

const Target& target();                    // the one in use
std::vector<std::string> usable_targets(); // those that this CPU can run
std::vector<std::string> refused_targets(); // the others, each with the reason
bool use_target(const std::string& name);  // false where this CPU cannot run it

}  // namespace lowbit
