// Starts a program that owes nothing to the host: no open files, no signal settings, no terminal.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace stemwire {

// Network thread. Starts a command, the first word of which is the path of the program, and sets
// `child` to its process id; 0 or an errno.
int start_child(const std::vector<std::string>& command, pid_t& child);

}  // namespace stemwire
