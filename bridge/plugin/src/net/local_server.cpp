#include "net/local_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "net/json.h"
#include "net/socket.h"

extern char** environ;

namespace stemwire {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostFile = 64 * 1024;
constexpr auto kBetweenStarts = std::chrono::seconds(30);
constexpr int kDefaultPort = 8765;
constexpr char kByHand[] = "run 'stemwire plugin serve' in a terminal to see why";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string home() {
  if (const std::string told = variable("HOME"); !told.empty()) return told;
  passwd entry{}, *found = nullptr;
  char buffer[4096];
  getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found);
  return found != nullptr && found->pw_dir != nullptr ? found->pw_dir : "";
}

std::string or_home(const char* name, const char* under) {
  const std::string told = variable(name);
  return told.empty() ? home() + under : told;
}

std::string server_file() {
  if (const std::string told = variable("STEMWIRE_RUNTIME_DIR"); !told.empty()) {
    return told + "/server.json";
  }
  if (const std::string run = variable("XDG_RUNTIME_DIR"); !run.empty()) {
    return run + "/stemwire/server.json";
  }
  return or_home("XDG_CACHE_HOME", "/.cache") + "/stemwire/run/server.json";
}

std::string settings_file() {
  return or_home("XDG_CONFIG_HOME", "/.config") + "/stemwire/plugin.json";
}

// A JSON object that the user alone could have written.
bool read_own(const std::string& path, Json& object) {
  // Without O_NONBLOCK, opening a pipe that lies there would wait for ever.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return false;
  struct stat about{};
  bool fine = fstat(file, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == geteuid() &&
              (about.st_mode & (S_IWGRP | S_IWOTH)) == 0;
  std::string text;
  char part[4096];
  while (fine) {
    const ssize_t got = read(file, part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fine = got == 0;
      break;
    }
    text.append(part, static_cast<std::size_t>(got));
    fine = text.size() <= kMostFile;
  }
  close(file);
  std::string problem;
  return fine && Json::parse(text, object, problem, kMostFile) && object.is(Json::Type::kObject);
}

std::string string_of(const Json& object, const char* name) {
  const Json* item = object.find(name);
  return item != nullptr && item->is(Json::Type::kString) ? item->text : "";
}

// What was started, by whichever plugin of this process.
struct Started {
  std::mutex mutex;
  bool ever = false;
  Clock::time_point when{};
  pid_t child = 0;  // 0: none that was not collected
  std::string problem;
};

Started& started() {
  static Started one;
  return one;
}

// A list of strings, as C wants it.
class Strings {
 public:
  void add(std::string text) { texts_.push_back(std::move(text)); }
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

// The host's, without what would make a Python of its own go astray.
Strings environment() {
  Strings result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    bool kept = true;
    for (const char* name : {"LD_LIBRARY_PATH=", "LD_PRELOAD=", "PYTHONHOME=", "PYTHONPATH="}) {
      kept = kept && text.substr(0, std::strlen(name)) != name;
    }
    if (kept) result.add(std::string(text));
  }
  return result;
}

// The server outlives the host: it shall not hold its sound card and files open.
void close_others(posix_spawn_file_actions_t& actions) {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    const int descriptor = std::atoi(entry->d_name);
    if (descriptor > 2) posix_spawn_file_actions_addclose(&actions, descriptor);
  }
  closedir(folder);
}

// An errno, or 0.
int spawn(Strings& command, pid_t& child) {
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
  // Neither the host's blocked signals nor its terminal, and signals as they are by default.
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  for (const int number : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGQUIT, SIGUSR1, SIGUSR2}) {
    sigaddset(&signals, number);
  }
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  Strings variables = environment();
  char* const* arguments = command.pointers();
  const int problem =
      posix_spawn(&child, arguments[0], &actions, &attributes, arguments, variables.pointers());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return problem;
}

void collect(Started& one) {
  if (one.child == 0) return;
  int status = 0;
  const pid_t ended = waitpid(one.child, &status, WNOHANG);
  if (ended == 0) return;
  one.child = 0;  // a host may have collected it before us
  if (ended > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
    one.problem = WIFEXITED(status) ? "exit status " + std::to_string(WEXITSTATUS(status))
                                    : "signal " + std::to_string(WTERMSIG(status));
  }
}

}  // namespace

std::vector<NamedServer> named_servers() {
  std::vector<NamedServer> result;
  Json settings;
  if (!read_own(settings_file(), settings)) return result;
  const Json* servers = settings.find("servers");
  if (servers == nullptr || !servers->is(Json::Type::kArray)) return result;
  for (const Json& server : servers->items) {
    NamedServer one{string_of(server, "name"), string_of(server, "url"),
                    string_of(server, "token")};
    if (!one.name.empty() && !one.url.empty()) result.push_back(std::move(one));
  }
  return result;
}

bool listens_here(int port) {
  constexpr unsigned kListening = 0x0A;
  for (const char* name : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::FILE* file = std::fopen(name, "re");  // streams of C++ would treble the plugin
    if (file == nullptr) continue;
    char line[512];
    bool found = false, ours = false;
    while (!found && std::fgets(line, sizeof line, file) != nullptr) {
      unsigned local = 0, state = 0, user = 0;
      // Number, address:port here and there, state, queues, timer, retransmissions, user.
      const int fields =
          std::sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*x:%*x %*x:%*x %*x %u", &local,
                      &state, &user);
      found = fields == 3 && local == static_cast<unsigned>(port) && state == kListening;
      ours = user == geteuid();
    }
    std::fclose(file);
    if (found) return ours;
  }
  return false;
}

LocalPlaces local_places() {
  LocalPlaces result;
  if (const std::string told = variable("STEMWIRE_PLUGIN_SERVER"); !told.empty()) {
    result.places.push_back({"", told, variable("STEMWIRE_PLUGIN_TOKEN")});
    result.fixed = true;
    return result;
  }
  Json server;
  if (read_own(server_file(), server)) {
    NamedServer one{"", string_of(server, "url"), string_of(server, "token")};
    if (!one.url.empty()) result.places.push_back(std::move(one));
  }
  if (listens_here(kDefaultPort)) {
    result.places.push_back({"", "ws://127.0.0.1:" + std::to_string(kDefaultPort), ""});
  }
  return result;
}

Start start_local_server() {
  using Result = Start::Result;
  Started& one = started();
  const std::lock_guard<std::mutex> lock(one.mutex);
  collect(one);
  if (one.child != 0 || (one.ever && Clock::now() - one.when < kBetweenStarts)) {
    if (one.problem.empty()) return {Result::kStarting, ""};
    return {Result::kFailed, "the server could not be started (" + one.problem + "); " + kByHand};
  }
  Json settings;
  if (!read_own(settings_file(), settings)) {
    return {Result::kNot, "run 'stemwire plugin install' so that the plugin can start a server, or "
                          "'stemwire serve'"};
  }
  const Json* wanted = settings.find("autostart");
  if (wanted != nullptr && wanted->is(Json::Type::kBool) && !wanted->boolean) {
    return {Result::kNot, "autostart is off in plugin.json; run 'stemwire plugin serve'"};
  }
  Strings command;
  const Json* words = settings.find("command");
  bool fine = words != nullptr && words->is(Json::Type::kArray) && !words->items.empty();
  for (std::size_t i = 0; fine && i < words->items.size(); ++i) {
    const Json& word = words->items[i];
    fine = word.is(Json::Type::kString) && (i > 0 || word.text.substr(0, 1) == "/") &&
           word.text.find('\0') == std::string::npos;
    command.add(word.text);
  }
  if (!fine) {
    return {Result::kNot, "plugin.json has no command that starts a server; run 'stemwire plugin "
                          "install' again"};
  }
  one.ever = true;
  one.when = Clock::now();
  one.problem.clear();
  if (const int number = spawn(command, one.child)) {
    one.child = 0;
    one.problem = error_text(number);
    return {Result::kFailed, "the server could not be started (" + one.problem +
                                 "); run 'stemwire plugin install' again"};
  }
  return {Result::kStarting, ""};
}

void collect_local_server() {
  Started& one = started();
  const std::lock_guard<std::mutex> lock(one.mutex);
  collect(one);
}

}  // namespace stemwire
