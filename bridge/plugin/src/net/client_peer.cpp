#include "net/client_peer.h"

#include <algorithm>

namespace stemwire {
namespace {

std::string number(std::int64_t n) { return std::to_string(n); }

}  // namespace

std::string ClientPeer::connect() {
  connected_ = false;
  frames_ = got_frames_ = 0;
  answers_.clear();
  said_stream_ = stream_;
  if (!has_session()) return encode_hello(wish_, nullptr);
  const Resume resume{session_, key_, stream_, received_};
  return encode_hello(wish_, &resume);
}

ClientPeer::Event ClientPeer::fault(std::string code, std::string text) {
  Event event;
  event.kind = Event::Kind::kFault;
  event.fault = {std::move(code), std::move(text), false};
  connected_ = false;
  return event;
}

ClientPeer::Event ClientPeer::receive_text(std::string_view text) {
  using Type = ServerMessage::Type;
  ServerMessage message;
  if (const Fault wrong = decode(text, message)) return fault(wrong.code, wrong.text);
  Event event;
  switch (message.type) {
    case Type::kUnknown: return event;
    case Type::kWelcome: return welcomed(message);
    case Type::kError:
      event.fault = {message.code, message.text, true};
      event.id = message.id;
      event.kind = Event::Kind::kFault;
      if (connected_ && message.code == "config") event.kind = Event::Kind::kRefusal;
      else connected_ = false;
      return event;
    case Type::kGoodbye:
      event.kind = Event::Kind::kGoodbye;
      event.fault = {"", message.text, true};
      connected_ = false;
      return event;
    default: break;
  }
  if (!connected_) return fault("state", "something came before the welcome");
  switch (message.type) {
    case Type::kReset:
      if (resetting_ && message.stream == stream_) resetting_ = false;
      return event;
    case Type::kState: return state(message);
    case Type::kPing:
      answers_.push_back(encode_ping(message.id, "pong", message.time));
      return event;
    case Type::kFlushed:  // nothing is ever flushed here
      if (!resetting_) return fault("state", "flushed came unasked");
      return event;
    default: return event;
  }
}

ClientPeer::Event ClientPeer::welcomed(const ServerMessage& message) {
  if (connected_) return fault("state", "welcome was said before");
  Event event;
  event.kind = Event::Kind::kWelcome;
  if (!has_session()) {
    if (message.position != 0) {
      return fault("position", "a new session at position " + number(message.position));
    }
    session_ = message.session;
    go_to(message.stream);
    latencies_ = {{0, message.latency}};
  } else {
    Fault wrong;
    if (!go_on(message, wrong)) return fault(wrong.code, wrong.text);
    event.resumed = true;
    change_latency(received_, message.latency);
  }
  key_ = message.key;
  server_ = message.server;
  limits_ = message.limits;
  connected_ = true;
  if (!chosen_.empty()) answers_.push_back(encode_preset(chosen_, ++controls_));
  return event;
}

// Whether and where a session goes on: see "When the connection breaks".
bool ClientPeer::go_on(const ServerMessage& message, Fault& fault) {
  if (message.session != session_) {
    fault = {"resume", "the server goes on with another session"};
    return false;
  }
  const bool left = stream_ != said_stream_;  // by a reset, since hello was said
  const bool kept = message.position >= received_ && message.position <= sent_;
  if (message.stream != said_stream_ || !(left || kept)) {
    fault = {"resume", "the server goes on in stream " + number(message.stream) + " at " +
                           number(message.position) + "; here are " + number(received_) + " to " +
                           number(sent_) + " of " + number(said_stream_)};
    return false;
  }
  resetting_ = left;
  sent_ = left ? 0 : message.position;
  for (int s = said_stream_; s != stream_; s = (s + 1) % kStreams) {
    answers_.push_back(encode_plain("reset"));
  }
  return true;
}

ClientPeer::Event ClientPeer::state(const ServerMessage& message) {
  Event event;
  event.kind = Event::Kind::kState;
  event.id = message.id;
  // While a reset is under way the position is the old stream's, and the new one begins with it.
  if (resetting_) latencies_ = {{0, message.latency}};
  else change_latency(message.position, message.latency);
  return event;
}

void ClientPeer::change_latency(std::int64_t position, std::int64_t latency) {
  if (latencies_.back().second == latency) return;
  while (!latencies_.empty() && latencies_.back().first >= position) latencies_.pop_back();
  while (latencies_.size() > 1 && latencies_[1].first <= received_) {
    latencies_.erase(latencies_.begin());
  }
  if (latencies_.size() >= kMostChanges) latencies_.erase(latencies_.begin());
  latencies_.emplace_back(position, latency);
}

std::int64_t ClientPeer::latency_at(std::int64_t position) const {
  std::int64_t latency = latencies_.front().second;
  for (const auto& [from, late] : latencies_) {
    if (from <= position) latency = late;
  }
  return latency;
}

std::size_t ClientPeer::run_at(std::int64_t position, std::size_t n) const {
  for (const auto& change : latencies_) {
    if (change.first > position && change.first - position < static_cast<std::int64_t>(n)) {
      return static_cast<std::size_t>(change.first - position);
    }
  }
  return n;
}

ClientPeer::Event ClientPeer::receive_binary(const std::uint8_t* data, std::size_t n) {
  if (!connected_) return fault("state", "audio came before the welcome");
  if (static_cast<std::int64_t>(n) > limits_.message) {
    return fault("too_large", "a frame of " + std::to_string(n) + " bytes");
  }
  FrameHead head;
  if (const Fault wrong = decode_frame(data, n, kStemsKind, planes(), head, samples_)) {
    return fault(wrong.code, wrong.text);
  }
  if (head.sequence != got_frames_) {
    return fault("sequence", "frame " + number(head.sequence) + " came where " +
                                 number(got_frames_) + " was due");
  }
  ++got_frames_;
  Event event;
  if (resetting_) return event;  // sent before the server knew
  if (head.stream != stream_) {
    return fault("sequence", "stems of stream " + number(head.stream) + "; this is " +
                                 number(stream_));
  }
  const std::int64_t end = head.position + head.count;
  if (head.position < received_) {
    return fault("position", "stems of " + number(head.position) + " came again");
  }
  if (end > sent_) {
    return fault("position", "stems up to " + number(end) + " of a mixture up to " + number(sent_));
  }
  event.kind = Event::Kind::kAudio;
  event.position = head.position;
  event.gap = head.position - received_;
  event.count = head.count;
  received_ = end;
  return event;
}

std::int64_t ClientPeer::room() const {
  if (!connected_) return 0;
  return std::max<std::int64_t>(0, limits_.ahead - (sent_ - received_));
}

std::int64_t ClientPeer::most_count() const {
  const std::int64_t sample = 4 * wish_.channels;
  return (limits_.message - static_cast<std::int64_t>(kHeaderBytes)) / sample;
}

FrameHead ClientPeer::head(std::size_t count) {
  FrameHead result;
  result.stream = stream_;
  result.sequence = frames_++;
  result.position = sent_;
  result.count = static_cast<std::uint32_t>(count);
  return result;
}

std::vector<std::uint8_t> ClientPeer::mixture(const float* const* channels, std::size_t n) {
  const FrameHead frame = head(n);
  sent_ += static_cast<std::int64_t>(n);
  return encode_frame(frame, channels, wish_.channels);
}

std::vector<std::uint8_t> ClientPeer::skip(std::int64_t n) {
  sent_ += n;
  return encode_frame(head(0), nullptr, 0);
}

std::string ClientPeer::reset() {
  if (!has_session()) return "";
  go_to(stream_ + 1);
  resetting_ = true;
  return connected_ ? encode_plain("reset") : "";
}

std::string ClientPeer::choose(const std::string& preset) {
  chosen_ = preset;
  return connected_ ? encode_preset(preset, ++controls_) : "";
}

void ClientPeer::go_to(int stream) {
  stream_ = stream % kStreams;
  sent_ = received_ = 0;
  latencies_ = {{0, latencies_.back().second}};
}

}  // namespace stemwire
