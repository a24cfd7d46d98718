#include "net/local_server.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "net/child_process.h"
#include "net/json.h"
#include "net/socket.h"

namespace stemwire {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxFile = 64 * 1024;  // bytes
constexpr auto kStartInterval = std::chrono::seconds(30);
constexpr int kDefaultPort = 8765;
constexpr char kRunByHand[] = "run 'stemwire plugin serve' in a terminal to see why";

std::string environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string home() {
  if (const std::string value = environment_variable("HOME"); !value.empty()) return value;
  passwd entry{}, *found = nullptr;
  char buffer[4096];
  getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found);
  return found != nullptr && found->pw_dir != nullptr ? found->pw_dir : "";
}

std::string xdg_folder(const char* name, const char* under) {
  const std::string value = environment_variable(name);
  return value.empty() ? home() + under : value;
}

std::string server_file() {
  if (const std::string value = environment_variable("STEMWIRE_RUNTIME_DIR"); !value.empty()) {
    return value + "/server.json";
  }
  if (const std::string run = environment_variable("XDG_RUNTIME_DIR"); !run.empty()) {
    return run + "/stemwire/server.json";
  }
  return xdg_folder("XDG_CACHE_HOME", "/.cache") + "/stemwire/run/server.json";
}

std::string settings_file() {
  return xdg_folder("XDG_CONFIG_HOME", "/.config") + "/stemwire/plugin.json";
}

// Reads a JSON object from a file that only this user can have written.
bool read_private_json(const std::string& path, Json& object) {
  // Without O_NONBLOCK, opening a pipe in its place would block.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return false;
  struct stat about{};
  bool valid = fstat(file, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == geteuid() &&
               (about.st_mode & (S_IWGRP | S_IWOTH)) == 0;
  std::string text;
  char part[4096];
  while (valid) {
    const ssize_t got = read(file, part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      valid = got == 0;
      break;
    }
    text.append(part, static_cast<std::size_t>(got));
    valid = text.size() <= kMaxFile;
  }
  close(file);
  std::string problem;
  return valid && Json::parse(text, object, problem, kMaxFile) && object.is(Json::Type::kObject);
}

std::string string_of(const Json& object, const char* name) {
  const Json* item = object.find(name);
  return item != nullptr && item->is(Json::Type::kString) ? item->text : "";
}

// The server started last by any plugin of this process.
struct StartedServer {
  std::mutex mutex;
  bool ever = false;
  Clock::time_point when{};
  pid_t child = 0;  // 0: none, or reaped
  std::string problem;
};

StartedServer& started_server() {
  static StartedServer one;
  return one;
}

void reap(StartedServer& one) {
  if (one.child == 0) return;
  int status = 0;
  const pid_t ended = waitpid(one.child, &status, WNOHANG);
  if (ended == 0) return;
  one.child = 0;  // or the host has reaped it
  if (ended > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
    one.problem = WIFEXITED(status) ? "exit status " + std::to_string(WEXITSTATUS(status))
                                    : "signal " + std::to_string(WTERMSIG(status));
  }
}

}  // namespace

std::vector<NamedServer> load_named_servers() {
  std::vector<NamedServer> result;
  Json settings;
  if (!read_private_json(settings_file(), settings)) return result;
  const Json* servers = settings.find("servers");
  if (servers == nullptr || !servers->is(Json::Type::kArray)) return result;
  for (const Json& server : servers->items) {
    NamedServer one{string_of(server, "name"), string_of(server, "url"),
                    string_of(server, "token")};
    if (!one.name.empty() && !one.url.empty()) result.push_back(std::move(one));
  }
  return result;
}

bool own_server_listens(int port) {
  constexpr unsigned kListening = 0x0A;
  for (const char* name : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::FILE* file = std::fopen(name, "re");  // C++ streams would triple the plugin's size
    if (file == nullptr) continue;
    char line[512];
    bool found = false, ours = false;
    while (!found && std::fgets(line, sizeof line, file) != nullptr) {
      unsigned local = 0, state = 0, user = 0;
      // Number, local and remote address:port, state, queues, timer, retransmissions, user.
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

LocalCandidates local_candidates() {
  LocalCandidates result;
  if (const std::string value = environment_variable("STEMWIRE_PLUGIN_SERVER"); !value.empty()) {
    result.servers.push_back({"", value, environment_variable("STEMWIRE_PLUGIN_TOKEN")});
    result.from_environment = true;
    return result;
  }
  Json server;
  if (read_private_json(server_file(), server)) {
    NamedServer one{"", string_of(server, "url"), string_of(server, "token")};
    if (!one.url.empty()) result.servers.push_back(std::move(one));
  }
  if (own_server_listens(kDefaultPort)) {
    result.servers.push_back({"", "ws://127.0.0.1:" + std::to_string(kDefaultPort), ""});
  }
  return result;
}

StartResult start_local_server() {
  using State = StartResult::State;
  StartedServer& one = started_server();
  const std::lock_guard<std::mutex> lock(one.mutex);
  reap(one);
  if (one.child != 0 || (one.ever && Clock::now() - one.when < kStartInterval)) {
    if (one.problem.empty()) return {State::kStarting, ""};
    return {State::kFailed,
            "the server could not be started (" + one.problem + "); " + kRunByHand};
  }
  Json settings;
  if (!read_private_json(settings_file(), settings)) {
    return {State::kNotAllowed,
            "run 'stemwire plugin install' so that the plugin can start a server, or "
            "'stemwire serve'"};
  }
  const Json* autostart = settings.find("autostart");
  if (autostart != nullptr && autostart->is(Json::Type::kBool) && !autostart->boolean) {
    return {State::kNotAllowed, "autostart is off in plugin.json; run 'stemwire plugin serve'"};
  }
  std::vector<std::string> command;
  const Json* words = settings.find("command");
  bool valid = words != nullptr && words->is(Json::Type::kArray) && !words->items.empty();
  for (std::size_t i = 0; valid && i < words->items.size(); ++i) {
    const Json& word = words->items[i];
    valid = word.is(Json::Type::kString) && (i > 0 || word.text.substr(0, 1) == "/") &&
            word.text.find('\0') == std::string::npos;
    command.push_back(word.text);
  }
  if (!valid) {
    return {State::kNotAllowed,
            "plugin.json has no command that starts a server; run 'stemwire plugin install' again"};
  }
  one.ever = true;
  one.when = Clock::now();
  one.problem.clear();
  if (const int number = start_child(command, one.child)) {
    one.child = 0;
    one.problem = error_text(number);
    return {State::kFailed, "the server could not be started (" + one.problem +
                                "); run 'stemwire plugin install' again"};
  }
  return {State::kStarting, ""};
}

void reap_local_server() {
  StartedServer& one = started_server();
  const std::lock_guard<std::mutex> lock(one.mutex);
  reap(one);
}

}  // namespace stemwire
