#include "net/client_peer.h"

#include <algorithm>

namespace stemwire {
namespace {

std::string number(std::int64_t n) { return std::to_string(n); }

}  // namespace

std::string ClientPeer::connect() {
  connected_ = false;
  frames_sent_ = frames_received_ = 0;
  replies_.clear();
  hello_stream_ = stream_;
  if (!has_session()) return encode_hello(request_, nullptr);
  const Resume resume{session_, key_, stream_, received_};
  return encode_hello(request_, &resume);
}

ClientPeer::Event ClientPeer::violation(std::string code, std::string text) {
  Event event;
  event.kind = Event::Kind::kError;
  event.error = {std::move(code), std::move(text), false};
  connected_ = false;
  return event;
}

ClientPeer::Event ClientPeer::receive_text(std::string_view text) {
  using Type = ServerMessage::Type;
  ServerMessage message;
  if (const ProtocolError wrong = decode(text, message)) return violation(wrong.code, wrong.text);
  Event event;
  switch (message.type) {
    case Type::kUnknown: return event;
    case Type::kWelcome: return on_welcome(message);
    case Type::kError:
      event.error = {message.code, message.text, true};
      event.id = message.id;
      event.kind = Event::Kind::kError;
      if (connected_ && message.code == "config") event.kind = Event::Kind::kRefusal;
      else connected_ = false;
      return event;
    case Type::kGoodbye:
      event.kind = Event::Kind::kGoodbye;
      event.error = {"", message.text, true};
      connected_ = false;
      return event;
    default: break;
  }
  if (!connected_) return violation("state", "a message arrived before the welcome");
  switch (message.type) {
    case Type::kReset:
      if (resetting_ && message.stream == stream_) resetting_ = false;
      return event;
    case Type::kState: return on_state(message);
    case Type::kPing:
      replies_.push_back(encode_ping(message.id, "pong", message.time));
      return event;
    case Type::kFlushed:  // the plugin never flushes
      if (!resetting_) return violation("state", "flushed arrived without a flush");
      return event;
    default: return event;
  }
}

ClientPeer::Event ClientPeer::on_welcome(const ServerMessage& message) {
  if (connected_) return violation("state", "a second welcome arrived");
  Event event;
  event.kind = Event::Kind::kWelcome;
  if (!has_session()) {
    if (message.position != 0) {
      return violation("position", "a new session at position " + number(message.position));
    }
    session_ = message.session;
    begin_stream(message.stream);
    latencies_ = {{0, message.latency}};
  } else {
    ProtocolError wrong;
    if (!resume_session(message, wrong)) return violation(wrong.code, wrong.text);
    event.resumed = true;
    change_latency(received_, message.latency);
  }
  key_ = message.key;
  server_ = message.server;
  limits_ = message.limits;
  connected_ = true;
  if (!control_preset_.empty()) replies_.push_back(encode_preset(control_preset_, ++control_id_));
  return event;
}

// Whether and where a session resumes; docs/protocol.md has the rules.
bool ClientPeer::resume_session(const ServerMessage& message, ProtocolError& error) {
  if (message.session != session_) {
    error = {"resume", "the server resumed another session"};
    return false;
  }
  const bool reset = stream_ != hello_stream_;  // since hello was sent
  const bool kept = message.position >= received_ && message.position <= sent_;
  if (message.stream != hello_stream_ || !(reset || kept)) {
    error = {"resume", "the server resumed stream " + number(message.stream) + " at " +
                           number(message.position) + "; expected a position from " +
                           number(received_) + " to " + number(sent_) + " of stream " +
                           number(hello_stream_)};
    return false;
  }
  resetting_ = reset;
  sent_ = reset ? 0 : message.position;
  for (int s = hello_stream_; s != stream_; s = (s + 1) % kStreams) {
    replies_.push_back(encode_plain("reset"));
  }
  return true;
}

ClientPeer::Event ClientPeer::on_state(const ServerMessage& message) {
  Event event;
  event.kind = Event::Kind::kState;
  event.id = message.id;
  // While a reset is pending the position is the old stream's; the latency holds for the new one.
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
  if (latencies_.size() >= kMaxChanges) latencies_.erase(latencies_.begin());
  latencies_.emplace_back(position, latency);
}

std::int64_t ClientPeer::latency_at(std::int64_t position) const {
  std::int64_t latency = latencies_.front().second;
  for (const auto& [from, late] : latencies_) {
    if (from <= position) latency = late;
  }
  return latency;
}

std::size_t ClientPeer::same_latency_run(std::int64_t position, std::size_t n) const {
  for (const auto& change : latencies_) {
    if (change.first > position && change.first - position < static_cast<std::int64_t>(n)) {
      return static_cast<std::size_t>(change.first - position);
    }
  }
  return n;
}

ClientPeer::Event ClientPeer::receive_binary(const std::uint8_t* data, std::size_t n) {
  if (!connected_) return violation("state", "audio arrived before the welcome");
  if (static_cast<std::int64_t>(n) > limits_.message) {
    return violation("too_large", "a frame of " + std::to_string(n) + " bytes");
  }
  FrameHeader head;
  if (const ProtocolError wrong = decode_frame(data, n, kStemsKind, planes(), head, samples_)) {
    return violation(wrong.code, wrong.text);
  }
  if (head.sequence != frames_received_) {
    return violation("sequence", "frame " + number(head.sequence) + " arrived where " +
                                     number(frames_received_) + " was expected");
  }
  ++frames_received_;
  Event event;
  if (resetting_) return event;  // sent before the server knew of the reset
  if (head.stream != stream_) {
    return violation("sequence", "stems of stream " + number(head.stream) +
                                     "; the current one is " + number(stream_));
  }
  const std::int64_t end = head.position + head.count;
  if (head.position < received_) {
    return violation("position", "stems at " + number(head.position) + " arrived again");
  }
  if (end > sent_) {
    return violation("position", "stems up to " + number(end) + ", but mixture was sent up to " +
                                     number(sent_));
  }
  event.kind = Event::Kind::kAudio;
  event.position = head.position;
  event.gap = head.position - received_;
  event.count = head.count;
  received_ = end;
  return event;
}

std::int64_t ClientPeer::sendable() const {
  if (!connected_) return 0;
  return std::max<std::int64_t>(0, limits_.ahead - (sent_ - received_));
}

std::int64_t ClientPeer::max_frame_samples() const {
  const std::int64_t sample = 4 * request_.channels;
  return (limits_.message - static_cast<std::int64_t>(kHeaderBytes)) / sample;
}

FrameHeader ClientPeer::next_header(std::size_t count) {
  FrameHeader result;
  result.stream = stream_;
  result.sequence = frames_sent_++;
  result.position = sent_;
  result.count = static_cast<std::uint32_t>(count);
  return result;
}

std::vector<std::uint8_t> ClientPeer::encode_mixture(const float* const* channels, std::size_t n) {
  const FrameHeader frame = next_header(n);
  sent_ += static_cast<std::int64_t>(n);
  return encode_frame(frame, channels, request_.channels);
}

std::vector<std::uint8_t> ClientPeer::encode_gap(std::int64_t n) {
  sent_ += n;
  return encode_frame(next_header(0), nullptr, 0);
}

std::string ClientPeer::reset() {
  if (!has_session()) return "";
  begin_stream(stream_ + 1);
  resetting_ = true;
  return connected_ ? encode_plain("reset") : "";
}

std::string ClientPeer::set_preset(const std::string& preset) {
  control_preset_ = preset;
  return connected_ ? encode_preset(preset, ++control_id_) : "";
}

void ClientPeer::begin_stream(int stream) {
  stream_ = stream % kStreams;
  sent_ = received_ = 0;
  latencies_ = {{0, latencies_.back().second}};
}

}  // namespace stemwire
