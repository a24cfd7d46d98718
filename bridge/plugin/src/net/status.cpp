#include "net/status.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace stemwire {
namespace {

constexpr long kMostBytes = 1 << 20;

}  // namespace

const char* name_of(Code code) {
  static constexpr const char* kNames[kCodes] = {
      "idle",          "connecting",      "separating",    "late: more delay",
      "no server",     "token refused",   "other version", "server refuses",
      "server faulty", "delay too small", "bad address",   "render failed",
  };
  const int index = static_cast<int>(code);
  return index >= 0 && index < kCodes ? kNames[index] : "";
}

std::string log_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::string folder = state != nullptr && *state != '\0' ? state
                       : home != nullptr                  ? std::string(home) + "/.local/state"
                                                          : "/tmp";
  return folder + "/stemwire/plugin.log";
}

void Log::write(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::size_t at = path_.find('/', 1); at != std::string::npos; at = path_.find('/', at + 1)) {
    mkdir(path_.substr(0, at).c_str(), 0700);
  }
  struct stat found {};
  const bool full = stat(path_.c_str(), &found) == 0 && found.st_size > kMostBytes;
  std::FILE* file = std::fopen(path_.c_str(), full ? "we" : "ae");
  if (file == nullptr) return;
  char when[32];
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(when, sizeof when, "%F %T", localtime_r(&now, &local));
  // One write: lines of other processes stay apart.
  const std::string all =
      std::string(when) + " [" + std::to_string(getpid()) + "] " + text.substr(0, 1000) + "\n";
  std::fwrite(all.data(), 1, all.size(), file);
  std::fclose(file);
}

void StatusBoard::set(Code code, const std::string& text) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (code == this->code() && text == text_) return;
    code_.store(code, std::memory_order_relaxed);
    text_ = text;
  }
  log_.write(std::string(name_of(code)) + ": " + text);
}

std::string StatusBoard::text() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return text_;
}

}  // namespace stemwire
