#include "net/session_transport.h"

#include <algorithm>
#include <utility>

namespace stemwire {
namespace {

constexpr std::int64_t kMaxFrame = 4096;       // samples: the server can start on the first part
constexpr std::size_t kMaxUnsent = 64 * 1024;  // bytes: beyond, mixture stays in its ring
// At least so long between frames: tiny blocks would exceed the server's limit on messages.
constexpr auto kFrameInterval = std::chrono::microseconds(500);
constexpr double kMaxBehindSeconds = 1.0;
constexpr auto kSkipInterval = std::chrono::seconds(2);

}  // namespace

SessionTransport::SessionTransport(SharedBuffers& buffers, std::string client, OnFailure on_failure)
    : buffers_(buffers),
      on_failure_(std::move(on_failure)),
      peer_(request_),
      buffer_(static_cast<std::size_t>(buffers.channels * kMaxFrame)) {
  request_.rate = buffers.rate;
  request_.channels = buffers.channels;
  request_.client = std::move(client);
  mixture_end_ = buffers.mixture.end();
  begin_stream(buffers.start.load(), buffers.offline.load());
  failed_ = offline_ && buffers.failed_start.load() == stream_start_;
  discard_session();
}

const char* SessionTransport::selected_preset() const {
  constexpr int kLast = static_cast<int>(sizeof kPresets / sizeof *kPresets) - 1;
  return kPresets[std::clamp(buffers_.preset.load(std::memory_order_relaxed), 0, kLast)];
}

bool SessionTransport::latency_exceeds_delay() const {
  return peer_.has_session() &&
         peer_.latency() > buffers_.delay.load(std::memory_order_relaxed);
}

// Real time: whether stems have been late for so long that they will not catch up.
bool SessionTransport::behind() {
  const Position due = mixture_end_ - buffers_.delay.load(std::memory_order_relaxed);
  if (offline_ || latency_exceeds_delay() || due <= buffers_.stems.end()) last_in_time_ = due;
  return static_cast<double>(due - last_in_time_) > kMaxBehindSeconds * buffers_.rate;
}

void SessionTransport::update() {
  mixture_end_ = buffers_.mixture.end();  // before `start`, as SharedBuffers explains
  const Position start = buffers_.start.load(std::memory_order_acquire);
  const bool offline = buffers_.offline.load(std::memory_order_relaxed);
  mixture_end_ = std::max(mixture_end_, start);
  if (start != stream_start_ || offline != offline_) begin_stream(start, offline);
  if (peer_.has_session()) {
    const std::string selected = selected_preset();
    const std::string& controlled = peer_.control_preset();
    const std::string& current = controlled.empty() ? peer_.request().preset : controlled;
    const bool fresh = peer_.sent() == 0;
    // A render must not depend on what was played before it.
    const bool changed = selected != current;
    if ((changed && (offline_ || fresh)) || (offline_ && fresh && !controlled.empty())) {
      needs_new_session_ = !failed_;
    } else if (changed) {
      outbox_.push_back(peer_.set_preset(selected));
    }
  }
  if (offline_ && !failed_ && mixture_end_ > stream_start_ && latency_exceeds_delay()) {
    fail_render("the separator's latency is " + std::to_string(peer_.latency()) +
                " samples, but the plugin's delay is " + std::to_string(buffers_.delay.load()) +
                "; choose a longer delay");
  }
  if (behind() && peer_.connected() && Clock::now() - last_skip_ > kSkipInterval) skip_to_newest();
  release();
}

void SessionTransport::begin_stream(Position start, bool offline) {
  stream_start_ = start;
  offline_ = offline;
  failed_ = false;
  failure_reason_.clear();
  origin_ = start;
  buffers_.stems.restart(start);
  if (peer_.has_session()) outbox_.push_back(peer_.reset());
}

// Real time: gives up on old samples and continues with the newest.
void SessionTransport::skip_to_newest() {
  last_skip_ = Clock::now();
  mixture_end_ = last_in_time_ = origin_ = std::max(buffers_.mixture.end(), stream_start_);
  buffers_.stems.restart(origin_);
  outbox_.push_back(peer_.reset());
}

void SessionTransport::discard_session() {
  needs_new_session_ = false;
  outbox_.clear();
  request_.preset = selected_preset();
  peer_ = ClientPeer(request_);
}

// The server has accepted a new session.
void SessionTransport::begin_session() {
  update();
  if (!offline_ || failed_) {
    origin_ = mixture_end_;
    buffers_.stems.restart(origin_);
    last_skip_ = Clock::now();
  } else {
    origin_ = buffers_.stems.end();
    if (buffers_.mixture.kept() > origin_) {
      fail_render("the beginning of the music is no longer buffered");
    }
  }
}

void SessionTransport::session_lost(const std::string& reason) {
  discard_session();
  if (offline_ && !failed_ && buffers_.stems.end() > stream_start_) fail_render(reason);
}

void SessionTransport::fail_render(const std::string& reason) {
  failed_ = true;
  failure_reason_ = reason;
  if (on_failure_) on_failure_(reason);
  buffers_.failed_start.store(stream_start_, std::memory_order_release);
  buffers_.to_audio.raise();
}

void SessionTransport::release() {
  if (failed_) buffers_.mixture.release(mixture_end_);
  // Offline, mixture without stems is kept: a new session may have to begin there.
  else if (offline_) buffers_.mixture.release(buffers_.stems.end());
  else buffers_.mixture.release(peer_.has_session() ? origin_ + peer_.received() : mixture_end_);
}

std::string SessionTransport::hello(const std::string& token) {
  update();
  if (!peer_.has_session() || needs_new_session_) discard_session();
  request_.token = token;
  peer_.set_token(token);
  outbox_.clear();  // the peer repeats all of it
  return peer_.connect();
}

// Samples in flight never fill more than half of a ring, whatever the server allows.
std::int64_t SessionTransport::sendable() const {
  const auto half = static_cast<std::int64_t>(buffers_.mixture.size() / 2);
  return std::min(peer_.sendable(), half - (peer_.sent() - peer_.received()));
}

void SessionTransport::send(WebSocket& socket) {
  for (const std::string& message : outbox_) {
    if (!message.empty() && peer_.connected()) socket.send_text(message);
  }
  outbox_.clear();
  if (!peer_.connected() || failed_ || needs_new_session_) return;
  const auto now = Clock::now();
  if (now - last_send_ < kFrameInterval) return;
  const Position intact = buffers_.mixture.intact_from();  // after `mixture_end_`
  if (const Position missing = intact - (origin_ + peer_.sent()); missing > 0) {
    if (offline_) return fail_render("some of the music was lost before it was sent");
    if (missing > sendable()) return skip_to_newest();
    const auto frame = peer_.encode_gap(missing);
    socket.send_binary(frame.data(), frame.size());
  }
  while (socket.output_size() < kMaxUnsent) {
    const Position at = origin_ + peer_.sent();
    const std::int64_t n =
        std::min({mixture_end_ - at, sendable(), kMaxFrame, peer_.max_frame_samples()});
    if (n <= 0) break;
    const float* channels[kMaxChannels];
    for (int c = 0; c < buffers_.channels; ++c) {
      float* to = buffer_.data() + c * kMaxFrame;
      buffers_.mixture.read(c, at, to, static_cast<std::size_t>(n));
      channels[c] = to;
    }
    const auto frame = peer_.encode_mixture(channels, static_cast<std::size_t>(n));
    socket.send_binary(frame.data(), frame.size());
    last_send_ = now;
  }
}

SessionTransport::Clock::time_point SessionTransport::next_send(Clock::time_point latest) const {
  if (!outbox_.empty()) return last_send_;
  const bool more = peer_.connected() && !failed_ && sendable() > 0 &&
                    origin_ + peer_.sent() < mixture_end_;
  return more ? std::min(latest, last_send_ + kFrameInterval) : latest;
}

ClientPeer::Event SessionTransport::receive_text(std::string_view text) {
  const ClientPeer::Event event = peer_.receive_text(text);
  for (std::string& answer : peer_.take_replies()) outbox_.push_back(std::move(answer));
  if (event.kind == ClientPeer::Event::Kind::kWelcome && !event.resumed) begin_session();
  return event;
}

ClientPeer::Event SessionTransport::receive_binary(const std::uint8_t* data, std::size_t n) {
  const ClientPeer::Event event = peer_.receive_binary(data, n);
  if (event.kind == ClientPeer::Event::Kind::kAudio && !failed_) store(event);
  release();
  return event;
}

void SessionTransport::store(const ClientPeer::Event& event) {
  StemTimeline& stems = buffers_.stems;
  const float* planes[kStems * kMaxChannels];
  for (std::size_t done = 0; done < event.count;) {
    const std::int64_t at = event.position + static_cast<std::int64_t>(done);
    const std::size_t n = peer_.same_latency_run(at, event.count - done);
    const Position mixture_at = origin_ + at - peer_.latency_at(at);
    if (mixture_at > stems.end()) {
      // The server left a gap, or switched to a preset with less latency.
      if (offline_) return fail_render("the server skipped some of the stems");
      stems.restart(mixture_at);
    }
    // Samples before the beginning, or stored already by a preset with less latency, are dropped.
    const std::int64_t stored = stems.end() - mixture_at;
    if (stored < static_cast<std::int64_t>(n)) {
      const std::size_t from = static_cast<std::size_t>(stored);
      for (int p = 0; p < peer_.planes(); ++p) {
        planes[p] = peer_.plane(p, event.count) + done + from;
      }
      stems.write(planes, n - from);
    }
    done += n;
  }
  if (offline_) buffers_.to_audio.raise();
}

}  // namespace stemwire
