// A client's end of a session, over as many connections as it takes, without sockets.
//
// Messages in, events and messages out. It holds positions, sequence numbers and streams to what
// docs/protocol.md says, and keeps no audio: whoever sends the mixture goes on from `sent`, which
// goes back after a resume, and keeps the mixture from `received` on. Nothing throws on input.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/messages.h"

namespace stemwire {

class ClientPeer {
 public:
  struct Event {
    enum class Kind {
      kNothing,   // or nothing that matters any more
      kWelcome,   // the session stands; it went on where it was if `resumed`
      kAudio,     // `count` samples of each plane from `position` on; `gap` before them are lost
      kState,     // latency or preset have changed, or will
      kRefusal,   // the control `id` cannot be done: `fault`; the connection stays
      kGoodbye,   // the server has ended the session: `fault.text` is its reason
      kFault,     // the connection is over
    };
    Kind kind = Kind::kNothing;
    Fault fault;
    bool resumed = false;
    std::int64_t position = 0, gap = 0, id = 0;
    std::size_t count = 0;
  };

  explicit ClientPeer(Wish wish) : wish_(std::move(wish)) {}

  // A connection stands: what is to be said on it first.
  std::string connect();
  void disconnected() { connected_ = false; }

  // A message has come.
  Event receive_text(std::string_view text);
  Event receive_binary(const std::uint8_t* data, std::size_t n);
  // What is to be said in answer to what came; they are then forgotten.
  std::vector<std::string> take_answers() { return std::exchange(answers_, {}); }

  // Of kAudio: plane after plane (vocals left, right, instrumental left, right), `count` each.
  const float* plane(int number, std::size_t count) const {
    return samples_.data() + static_cast<std::size_t>(number) * count;
  }
  int planes() const { return 2 * wish_.channels; }

  // PlanarRing that may be sent now, in frames of at most `most_count`.
  std::int64_t room() const;
  std::int64_t most_count() const;
  // The next n samples, n <= room() and most_count(); `channels` pointers.
  std::vector<std::uint8_t> mixture(const float* const* channels, std::size_t n);
  // Leaves a gap of n samples, n <= room().
  std::vector<std::uint8_t> skip(std::int64_t n);
  // Forgets the stream; the next begins at once. Empty if there is no connection to say it on.
  std::string reset();
  // Another preset, said again on connections to come. Empty likewise.
  std::string choose(const std::string& preset);

  void set_token(std::string token) { wish_.token = std::move(token); }
  bool connected() const { return connected_; }
  bool has_session() const { return !session_.empty(); }
  const Wish& wish() const { return wish_; }
  const std::string& chosen() const { return chosen_; }  // preset by control, or empty
  const Limits& limits() const { return limits_; }
  const std::string& server() const { return server_; }
  int stream() const { return stream_; }
  std::int64_t sent() const { return sent_; }          // position after the newest mixture
  std::int64_t received() const { return received_; }  // and after the newest stems

  // PlanarRing by which stems at a position are late; and how many from there on, at most n, are.
  std::int64_t latency_at(std::int64_t position) const;
  std::size_t run_at(std::int64_t position, std::size_t n) const;
  std::int64_t latency() const { return latencies_.back().second; }  // the newest known

 private:
  static constexpr int kStreams = 65536;
  static constexpr std::size_t kMostChanges = 16;  // of latency that are still to come

  Event fault(std::string code, std::string text);
  Event welcomed(const ServerMessage& message);
  bool go_on(const ServerMessage& message, Fault& fault);
  Event state(const ServerMessage& message);
  void change_latency(std::int64_t position, std::int64_t latency);
  void go_to(int stream);
  FrameHead head(std::size_t count);

  Wish wish_;
  std::string chosen_;
  std::int64_t controls_ = 0;  // ids
  bool connected_ = false, resetting_ = false;
  std::string session_, key_, server_;
  Limits limits_;
  int stream_ = 0, said_stream_ = 0;  // now; and when hello was said
  std::int64_t sent_ = 0, received_ = 0;
  std::uint32_t frames_ = 0, got_frames_ = 0;
  // From which position on stems are so late; rising, and never empty.
  std::vector<std::pair<std::int64_t, std::int64_t>> latencies_{{0, 0}};
  std::vector<float> samples_;
  std::vector<std::string> answers_;
};

}  // namespace stemwire
