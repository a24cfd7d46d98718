#include "net/status.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace stemwire {
namespace {

constexpr long kMaxBytes = 1 << 20;

}  // namespace

const char* name_of(Status status) {
  static constexpr const char* kNames[kStatusCount] = {
      "idle",          "connecting",      "separating",    "late: more delay",
      "no server",     "token refused",   "other version", "server refuses",
      "server faulty", "delay too small", "bad address",   "render failed",
  };
  const int index = static_cast<int>(status);
  return index >= 0 && index < kStatusCount ? kNames[index] : "";
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
  struct stat about {};
  const bool full = stat(path_.c_str(), &about) == 0 && about.st_size > kMaxBytes;
  std::FILE* file = std::fopen(path_.c_str(), full ? "we" : "ae");
  if (file == nullptr) return;
  char when[32];
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  std::strftime(when, sizeof when, "%F %T", localtime_r(&now, &local));
  // One write, so that lines of other processes stay separate.
  const std::string all =
      std::string(when) + " [" + std::to_string(getpid()) + "] " + text.substr(0, 1000) + "\n";
  std::fwrite(all.data(), 1, all.size(), file);
  std::fclose(file);
}

void StatusBoard::set(Status status, const std::string& text) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status == this->status() && text == text_) return;
    status_.store(status, std::memory_order_relaxed);
    text_ = text;
  }
  log_.write(std::string(name_of(status)) + ": " + text);
}

std::string StatusBoard::text() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return text_;
}

}  // namespace stemwire
