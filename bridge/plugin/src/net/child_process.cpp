#include "net/child_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>

#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

extern char** environ;

namespace stemwire {
namespace {

// A list of strings as a null-terminated array of C strings.
class Strings {
 public:
  explicit Strings(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  char* const* pointers() {
    pointers_.clear();
    for (std::string& text : texts_) pointers_.push_back(text.data());
    pointers_.push_back(nullptr);
    return pointers_.data();
  }

 private:
  std::vector<std::string> texts_;
  std::vector<char*> pointers_;
};

// The host's environment without variables that would mislead another program's Python.
std::vector<std::string> environment() {
  std::vector<std::string> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    bool kept = true;
    for (const char* name : {"LD_LIBRARY_PATH=", "LD_PRELOAD=", "PYTHONHOME=", "PYTHONPATH="}) {
      kept = kept && text.substr(0, std::strlen(name)) != name;
    }
    if (kept) result.emplace_back(text);
  }
  return result;
}

// The child may outlive the host, so it must not keep the host's sound card and files open.
void close_others(posix_spawn_file_actions_t& actions) {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    const int descriptor = std::atoi(entry->d_name);
    if (descriptor > 2) posix_spawn_file_actions_addclose(&actions, descriptor);
  }
  closedir(folder);
}

}  // namespace

int start_child(const std::vector<std::string>& command, pid_t& child) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  if (const int problem = posix_spawn_file_actions_init(&actions)) return problem;
  if (const int problem = posix_spawnattr_init(&attributes)) {
    posix_spawn_file_actions_destroy(&actions);
    return problem;
  }
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  close_others(actions);
  // A session of its own, no blocked signals, and default signal handlers.
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  for (const int number : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGQUIT, SIGUSR1, SIGUSR2}) {
    sigaddset(&signals, number);
  }
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  Strings words(command), variables(environment());
  char* const* arguments = words.pointers();
  const int problem =
      posix_spawn(&child, arguments[0], &actions, &attributes, arguments, variables.pointers());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return problem;
}

}  // namespace stemwire
