// Positions of samples, and what is kept or given up, without sockets.
#include <optional>
#include <thread>

#include "check.h"
#include "net/digest.h"
#include "net/session_transport.h"
#include "server_messages.h"

using namespace stemwire;

namespace {

constexpr int kRate = 8000;

bool counting_bytes(std::uint8_t* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(i);
  return true;
}

// A plugin with a mono track, and a scripted server.
struct Stage {
  explicit Stage(bool offline, std::int64_t server_ahead = 4000) : ahead(server_ahead) {
    buffers.delay.store(400);
    buffers.begin_stream(offline);
    transport.emplace(buffers, "test");
  }

  // Connects, up to the welcome.
  void connect(std::int64_t position = 0, int stream = 0, const std::string& session = "s") {
    socket.emplace(counting_bytes);
    socket->open("h", "/", "p");
    std::uint8_t nonce[16];
    counting_bytes(nonce, 16);
    const std::string answer =
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
        websocket_accept(base64(nonce, 16)) + "\r\n\r\n";
    socket->receive(reinterpret_cast<const std::uint8_t*>(answer.data()), answer.size());
    CHECK(socket->next() == WebSocket::Event::kOpen);
    hello = transport->hello("token");
    sequence = 0;
    const auto event =
        transport->receive_text(server::welcome(ahead, stream, position, session, 4, 1 << 20));
    CHECK(event.kind == ClientPeer::Event::Kind::kWelcome);
  }

  // The audio thread writes; the network thread wakes and sends.
  void play(std::size_t n) {
    const std::vector<float> silence(n);
    const float* channels[] = {silence.data()};
    buffers.mixture.write(channels, n);
    work();
  }
  void work() {
    transport->update();
    if (socket) {
      transport->send(*socket);
      socket->consume_output(socket->output_size());
    }
  }
  // Sends everything; frames are half a millisecond apart.
  void work_on() {
    for (int i = 0; i < 100; ++i) {
      work();
      const auto never = SessionTransport::Clock::time_point::max();
      const auto next = transport->next_send(never);
      if (next == never) break;
      std::this_thread::sleep_until(next);
    }
  }

  ClientPeer::Event stems(std::uint32_t count) {
    const ClientPeer& peer = transport->peer();
    const auto data = server::stems(1, peer.received(), count, sequence++, peer.stream());
    return transport->receive_binary(data.data(), data.size());
  }

  // First channel of the vocals at a position of the mixture; -1 if not available.
  float vocals(Position at) {
    float sample = -1.0f;
    if (buffers.stems.available(at, 1) == 1) buffers.stems.read(0, 0, at, &sample, 1);
    return sample;
  }

  SharedBuffers buffers{kRate, 1};
  std::optional<SessionTransport> transport;
  std::optional<WebSocket> socket;
  std::string hello;
  std::int64_t ahead;
  std::uint32_t sequence = 0;
};

void test_real_time_begins_now() {
  Stage stage(false);
  stage.play(500);
  CHECK_EQ(stage.buffers.mixture.kept(), 500);  // it will not be sent
  stage.connect();
  stage.play(100);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().sent(), 100);
  CHECK_EQ(stage.stems(50).kind, ClientPeer::Event::Kind::kAudio);
  // The latency is 4 samples: the first 4 belong to the time before the stream.
  CHECK_EQ(stage.buffers.stems.end(), 546);
  CHECK_EQ(stage.vocals(499), -1.0f);
  CHECK_EQ(stage.vocals(500), server::sample(0, 4));
  CHECK_EQ(stage.vocals(545), server::sample(0, 49));
  CHECK_EQ(stage.buffers.mixture.kept(), 550);
}

void test_a_render_keeps_its_beginning() {
  Stage stage(true);
  stage.play(500);
  CHECK_EQ(stage.buffers.mixture.kept(), 0);
  stage.connect();
  stage.work_on();
  CHECK_EQ(stage.transport->peer().sent(), 500);
  stage.stems(4);
  // Lost before any usable stems: it starts over.
  stage.transport->session_lost("cut");
  CHECK(!stage.transport->failed());
  stage.connect(0, 0, "t");
  stage.work_on();
  CHECK_EQ(stage.transport->peer().sent(), 500);
  stage.stems(400);
  CHECK_EQ(stage.vocals(0), server::sample(0, 4));
  CHECK_EQ(stage.buffers.mixture.kept(), 396);
  // But not afterwards.
  stage.transport->session_lost("cut");
  CHECK(stage.transport->failed());
  CHECK_EQ(stage.transport->failure_reason(), "cut");
  CHECK_EQ(stage.buffers.failed_start.load(), 0);
  stage.play(100);
  CHECK_EQ(stage.buffers.mixture.kept(), 600);
  // Until the next stream.
  stage.buffers.begin_stream(true);
  stage.connect(0, 0, "u");
  CHECK(!stage.transport->failed());
  stage.play(100);
  stage.work_on();
  stage.stems(10);
  CHECK_EQ(stage.vocals(600), server::sample(0, 4));
}

void test_resume() {
  Stage stage(true);
  stage.connect();
  stage.play(500);
  stage.work_on();
  stage.stems(100);
  stage.transport->disconnected();
  stage.play(100);
  stage.connect(300);
  CHECK(stage.hello.find("\"position\":100}") != std::string::npos);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().sent(), 600);
  CHECK_EQ(stage.stems(500).kind, ClientPeer::Event::Kind::kAudio);
  CHECK_EQ(stage.buffers.stems.end(), 596);
  CHECK_EQ(stage.vocals(595), server::sample(0, 599));
}

void test_streams() {
  Stage stage(false);
  stage.connect();
  stage.play(500);
  stage.work_on();
  stage.stems(100);
  stage.buffers.begin_stream(true);
  stage.play(50);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().stream(), 1);
  CHECK_EQ(stage.transport->peer().sent(), 50);
  CHECK_EQ(stage.buffers.stems.end(), 500);
  CHECK_EQ(stage.stems(10).kind, ClientPeer::Event::Kind::kNothing);  // not confirmed yet
  stage.transport->receive_text("{\"type\":\"reset\",\"stream\":1}");
  stage.stems(10);
  CHECK_EQ(stage.vocals(500), server::sample(0, 4));
  CHECK_EQ(stage.vocals(499), -1.0f);
}

void test_lost_mixture() {
  Stage stage(false, 20000);
  stage.connect();
  stage.play(100);
  stage.work_on();
  // The network thread is held up: the ring (32000 samples) fills up.
  const std::vector<float> block(1000);
  const float* channels[] = {block.data()};
  for (int i = 0; i < 33; ++i) stage.buffers.mixture.write(channels, 1000);
  CHECK_EQ(stage.buffers.mixture.intact_from(), 33100);
  stage.work_on();
  stage.play(100);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().stream(), 1);  // restarted at the newest sample
  CHECK_EQ(stage.transport->peer().sent(), 100);
  // Offline it is a failure.
  Stage render(true, 20000);
  render.connect();
  for (int i = 0; i < 33; ++i) render.buffers.mixture.write(channels, 1000);
  render.work_on();
  CHECK(render.transport->failed());
}

void test_late_stems() {
  Stage stage(false);
  stage.connect();
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // the interval of skips
  for (int i = 0; i < 20; ++i) stage.play(400);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().stream(), 0);
  CHECK_EQ(stage.transport->peer().sent(), 4000);  // no more is allowed
  CHECK(stage.transport->awaits_stems());
  // After a second without stems it skips to the newest mixture.
  for (int i = 0; i < 2; ++i) stage.play(400);
  stage.work_on();
  CHECK_EQ(stage.transport->peer().stream(), 1);
  CHECK_EQ(stage.buffers.stems.end(), 8800);
  CHECK_EQ(stage.transport->peer().sent(), 0);
}

void test_delays() {
  Stage stage(true);
  stage.buffers.delay.store(3);
  stage.connect();
  CHECK(stage.transport->latency_exceeds_delay());
  CHECK(!stage.transport->failed());  // nothing was played yet
  stage.play(10);
  CHECK(stage.transport->failed());
  CHECK(stage.transport->failure_reason().find("4 samples") != std::string::npos);
}

void test_presets() {
  Stage stage(false);
  stage.connect();
  stage.buffers.preset.store(1);
  stage.work();
  CHECK(stage.transport->needs_new_session());  // nothing was sent yet: a new session is simplest
  stage.transport->discard_session();
  stage.connect();
  CHECK(stage.hello.find("\"preset\":\"low\"") != std::string::npos);
  stage.play(1000);
  stage.work_on();
  stage.stems(500);
  stage.buffers.preset.store(0);
  stage.work_on();
  CHECK(!stage.transport->needs_new_session());
  CHECK_EQ(stage.transport->peer().control_preset(), "standard");
  // Higher latency from 600 on: 6 samples arrive again and are dropped.
  stage.transport->receive_text(server::state(10, 600));
  stage.stems(200);
  CHECK_EQ(stage.buffers.stems.end(), 690);
  CHECK_EQ(stage.vocals(595), server::sample(0, 599));
  CHECK_EQ(stage.vocals(596), server::sample(0, 606));
  // Lower latency from 800 on: 8 samples are missing, and the audio processor conceals them.
  stage.transport->receive_text(server::state(2, 800));
  stage.stems(200);
  CHECK_EQ(stage.vocals(798), server::sample(0, 800));
  CHECK_EQ(stage.vocals(797), -1.0f);
  CHECK_EQ(stage.buffers.stems.end(), 898);
  // A render continues in a new session where the stems end.
  Stage render(true);
  render.connect();
  render.play(1000);
  render.work_on();
  render.stems(500);
  render.buffers.preset.store(1);
  render.work();
  CHECK(render.transport->needs_new_session());
  render.transport->discard_session();
  render.connect(0, 0, "t");
  render.work_on();
  CHECK_EQ(render.transport->peer().sent(), 504);
  render.stems(100);
  CHECK_EQ(render.vocals(495), server::sample(0, 499));
  CHECK_EQ(render.vocals(496), server::sample(0, 4));
  CHECK(!render.transport->failed());
}

}  // namespace

int main() {
  test_real_time_begins_now();
  test_a_render_keeps_its_beginning();
  test_resume();
  test_streams();
  test_lost_mixture();
  test_late_stems();
  test_delays();
  test_presets();
  return check::result();
}
