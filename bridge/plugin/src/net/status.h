// The plugin's status: a code that hosts show as a parameter, and a line of text for the user.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace stemwire {

enum class Status : int {
  kIdle,           // not active
  kConnecting,     // looking for a server, or waiting for one that has been started
  kSeparating,     // stems arrive in time
  kLate,           // stems arrive late: the delay is too small, or the server too slow
  kNoServer,       // no server answers; trying again
  kTokenRefused,   // the token is missing or wrong
  kVersion,        // the server speaks another version of the protocol
  kRefused,        // the server cannot serve this: rate, preset, capacity
  kServerFault,    // the server violated the protocol
  kDelayTooSmall,  // the separator's latency alone exceeds the delay
  kBadAddress,     // not a ws:// address
  kRenderFailed,   // offline: stems are missing, and an alarm was written
};
constexpr int kStatusCount = 12;

// Name of a status as hosts show it, at most 24 characters.
const char* name_of(Status status);

// The log file, shared by all instances and hosts. Each line is appended in one piece; beyond a
// megabyte the file is started over. A file that cannot be written is ignored.
class Log {
 public:
  explicit Log(std::string path) : path_(std::move(path)) {}
  // Any thread but the audio thread in real time.
  void write(const std::string& text);

 private:
  std::mutex mutex_;
  std::string path_;
};

// Path of the log file: $XDG_STATE_HOME/stemwire/plugin.log, or below ~/.local/state.
std::string log_path();

// The current status of one plugin.
class StatusBoard {
 public:
  explicit StatusBoard(Log& log) : log_(log) {}

  // Network thread. Changes are logged.
  void set(Status status, const std::string& text);
  // Any thread.
  Status status() const { return status_.load(std::memory_order_relaxed); }
  // Any thread but the audio thread in real time.
  std::string text() const;

 private:
  Log& log_;
  std::atomic<Status> status_{Status::kIdle};
  mutable std::mutex mutex_;
  std::string text_;
};

}  // namespace stemwire
