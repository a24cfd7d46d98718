// The client's side of the protocol's test vectors, and sequences of messages.
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "check.h"
#include "net/client_peer.h"
#include "net/json.h"
#include "net/messages.h"
#include "server_messages.h"

using namespace stemwire;

namespace {

using Kind = ClientPeer::Event::Kind;
using Type = ServerMessage::Type;

Json read_vectors() {
  const std::string here = __FILE__;
  std::ifstream file(here.substr(0, here.rfind('/')) + "/../../../vectors/protocol-1.json");
  std::stringstream text;
  text << file.rdbuf();
  Json vectors;
  std::string problem;
  CHECK(Json::parse(text.str(), vectors, problem, 1 << 20));
  return vectors;
}

std::vector<std::uint8_t> from_hex(const std::string& hex) {
  std::vector<std::uint8_t> data;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    data.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return data;
}

bool from_server(const Json& entry) { return entry.find("from")->text == "server"; }

void test_text_messages(const Json& vectors) {
  int count = 0;
  for (const Json& entry : vectors.find("text")->items) {
    if (!from_server(entry)) continue;
    ++count;
    const Json& means = *entry.find("means");
    const auto whole = [&](const char* name, std::int64_t is) {
      const Json* item = means.find(name);
      if (item != nullptr && item->is_integer) CHECK_EQ(item->integer, is);
    };
    const auto text = [&](const char* name, const std::string& is) {
      const Json* item = means.find(name);
      if (item != nullptr && item->is(Json::Type::kString)) CHECK_EQ(item->text, is);
    };
    ServerMessage message;
    const ProtocolError error = decode(entry.find("text")->text, message);
    check::that(!error && message.type != Type::kUnknown, __FILE__, __LINE__,
                entry.find("name")->text);
    if (message.type == Type::kStats) continue;  // the plugin does not use them
    whole("id", message.id);
    whole("latency", message.latency);
    whole("position", message.position);
    whole("hop", message.hop);
    whole("stream", message.stream);
    text("session", message.session);
    text("key", message.key);
    text("server", message.server);
    text("preset", message.preset);
    text("code", message.code);
    text("text", message.text);
    text("reason", message.text);
    if (const Json* time = means.find("time")) CHECK_EQ(time->number, message.time);
    if (const Json* limits = means.find("limits")) {
      CHECK_EQ(limits->find("message")->integer, message.limits.message);
      CHECK_EQ(limits->find("ahead")->integer, message.limits.ahead);
      CHECK_EQ(limits->find("grace")->number, message.limits.grace);
      CHECK_EQ(limits->find("idle")->number, message.limits.idle);
    }
  }
  CHECK(count > 10);
  for (const Json& entry : vectors.find("ignored")->items) {
    if (!from_server(entry)) continue;
    ServerMessage message;
    CHECK(!decode(entry.find("text")->text, message));
    CHECK_EQ(message.type, Type::kUnknown);
  }
  for (const Json& entry : vectors.find("refused")->items) {
    ServerMessage message;
    const std::string& text = entry.find("text")->text;
    const std::string code = decode(text, message).code;
    if (from_server(entry)) CHECK_EQ(code, entry.find("error")->text);
    // What is not JSON from a client is not JSON from a server either.
    Json value;
    std::string problem;
    if (!Json::parse(text, value, problem)) CHECK(code == "malformed" || code == "too_large");
  }
}

void test_client_messages(const Json& vectors) {
  // Against the vectors' hello with every default.
  for (const Json& entry : vectors.find("text")->items) {
    if (entry.find("name")->text != "the shortest hello") continue;
    Json hello;
    std::string problem;
    CHECK(Json::parse(encode_hello({44100, 2, "standard", "", "me"}, nullptr), hello, problem));
    const Json& means = *entry.find("means");
    for (std::size_t i = 0; i < hello.names.size(); ++i) {
      const Json* meant = means.find(hello.names[i]);
      if (!CHECK(meant != nullptr)) continue;
      CHECK_EQ(hello.items[i].type, meant->type);
      if (hello.items[i].is_integer) CHECK_EQ(hello.items[i].integer, meant->integer);
    }
    CHECK_EQ(hello.find("stems")->items[1].text, "instrumental");
    CHECK(hello.find("resume") == nullptr);
  }
  const Resume resume{"s\"1", "0123456789abcdef", 7, 123};
  CHECK_EQ(encode_hello({8000, 1, "low", "t\\", "me"}, &resume),
           "{\"type\":\"hello\",\"version\":1,\"token\":\"t\\\\\",\"rate\":8000,\"channels\":1,"
           "\"stems\":[\"vocals\",\"instrumental\"],\"preset\":\"low\",\"resume\":{\"session\":"
           "\"s\\\"1\","
           "\"key\":\"0123456789abcdef\",\"stream\":7,\"position\":123},\"client\":\"me\"}");
  CHECK_EQ(encode_ping(3, "pong", 12.25), "{\"type\":\"pong\",\"id\":3,\"time\":12.25}");
  CHECK_EQ(encode_ping(0, "pong", -1e300),
           "{\"type\":\"pong\",\"id\":0,\"time\":-1.0000000000000001e+300}");
}

void test_frames(const Json& vectors) {
  int count = 0;
  for (const Json& entry : vectors.find("frames")->items) {
    if (entry.find("format")->text != "f32") continue;
    ++count;
    const auto data = from_hex(entry.find("hex")->text);
    const int kind = static_cast<int>(entry.find("kind")->integer);
    const int planes =
        static_cast<int>(entry.find("parts")->integer * entry.find("channels")->integer);
    FrameHeader head;
    std::vector<float> samples;
    CHECK(!decode_frame(data.data(), data.size(), kind, planes, head, samples));
    CHECK_EQ(head.stream, entry.find("stream")->integer);
    CHECK_EQ(head.sequence, entry.find("sequence")->integer);
    CHECK_EQ(head.position, entry.find("position")->integer);
    std::size_t at = 0;
    for (const Json& part : entry.find("samples")->items) {
      for (const Json& channel : part.items) {
        for (const Json& sample : channel.items)
          CHECK_EQ(samples.at(at++), static_cast<float>(sample.number));
      }
    }
    CHECK_EQ(at, samples.size());
    std::vector<const float*> pointers;
    for (int p = 0; p < planes; ++p)
      pointers.push_back(samples.data() + static_cast<std::size_t>(p) * head.count);
    CHECK(encode_frame(head, pointers.data(), planes) == data);
  }
  CHECK_EQ(count, 5);
  for (const Json& entry : vectors.find("refused_frames")->items) {
    const auto data = from_hex(entry.find("hex")->text);
    FrameHeader head;
    std::vector<float> samples;
    const ProtocolError error = decode_frame(
        data.data(), data.size(), static_cast<int>(entry.find("kind")->integer),
        static_cast<int>(entry.find("parts")->integer * entry.find("channels")->integer), head,
        samples);
    CHECK_EQ(error.code, entry.find("error")->text);
  }
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), 2e6f,
                       -std::numeric_limits<float>::infinity(), 1e6f};
  const float* planes[] = {bad};
  FrameHeader head;
  head.count = 4;
  std::vector<float> samples;
  const auto data = encode_frame(head, planes, 1);
  CHECK(!decode_frame(data.data(), data.size(), kMixtureKind, 1, head, samples));
  CHECK(samples == std::vector<float>({0, 0, 0, 1e6f}));
}

// A client after the welcome.
ClientPeer welcomed_peer(int ahead = 8) {
  ClientPeer peer({8000, 1, "standard", "", "test"});
  peer.connect();
  CHECK(peer.receive_text(server::welcome(ahead)).kind == Kind::kWelcome);
  return peer;
}

ClientPeer::Event stems(ClientPeer& peer, std::int64_t position, std::uint32_t count,
                        std::uint32_t sequence, int stream = 0) {
  const auto data = server::stems(1, position, count, sequence, stream);
  return peer.receive_binary(data.data(), data.size());
}

// Sends n samples.
FrameHeader send_samples(ClientPeer& peer, std::size_t n) {
  const std::vector<float> silence(n);
  const float* channels[] = {silence.data()};
  const auto data = peer.encode_mixture(channels, n);
  FrameHeader head;
  std::vector<float> samples;
  CHECK(!decode_frame(data.data(), data.size(), kMixtureKind, 1, head, samples));
  CHECK_EQ(head.count, n);
  return head;
}

void check_error(const ClientPeer::Event& event, const char* code) {
  CHECK_EQ(event.kind, Kind::kError);
  CHECK_EQ(event.error.code, code);
  CHECK(!event.error.text.empty());
}

void test_flow() {
  ClientPeer peer = welcomed_peer();
  CHECK_EQ(peer.sendable(), 8);
  CHECK_EQ(peer.max_frame_samples(), 250);
  CHECK_EQ(send_samples(peer, 3).sequence, 0u);
  const FrameHeader second = send_samples(peer, 5);
  CHECK_EQ(second.sequence, 1u);
  CHECK_EQ(second.position, 3);
  CHECK_EQ(peer.sendable(), 0);
  const ClientPeer::Event event = stems(peer, 0, 4, 0);
  CHECK_EQ(event.kind, Kind::kAudio);
  CHECK_EQ(event.count, 4u);
  CHECK_EQ(peer.plane(1, event.count)[3], server::sample(1, 3));
  CHECK_EQ(peer.sendable(), 4);
  const auto gap = peer.encode_gap(4);
  FrameHeader head;
  std::vector<float> samples;
  CHECK(!decode_frame(gap.data(), gap.size(), kMixtureKind, 1, head, samples));
  CHECK_EQ(head.position, 12);
  CHECK_EQ(head.count, 0u);
  CHECK_EQ(peer.sendable(), 0);
  CHECK_EQ(stems(peer, 6, 6, 1).gap, 2);  // the server skipped two
  check_error(stems(peer, 11, 1, 2), "position");
}

void test_violations() {
  const auto check_with_peer = [](auto what) {
    ClientPeer peer = welcomed_peer();
    send_samples(peer, 8);
    what(peer);
  };
  check_with_peer([](ClientPeer& p) { check_error(stems(p, 0, 1, 1), "sequence"); });
  check_with_peer([](ClientPeer& p) { check_error(stems(p, 0, 1, 0, 1), "sequence"); });
  check_with_peer([](ClientPeer& p) { check_error(stems(p, 0, 9, 0), "position"); });
  check_with_peer([](ClientPeer& p) { check_error(stems(p, 9, 0, 0), "position"); });
  check_with_peer([](ClientPeer& p) { check_error(p.receive_text(server::welcome(8)), "state"); });
  check_with_peer([](ClientPeer& p) {
    check_error(p.receive_text("{\"type\":\"flushed\",\"stream\":1,\"position\":8}"), "state");
  });
  check_with_peer([](ClientPeer& p) { check_error(p.receive_text("{"), "malformed"); });
  check_with_peer([](ClientPeer& p) {
    const std::uint8_t data[30] = {2};
    check_error(p.receive_binary(data, sizeof data), "malformed");
    check_error(stems(p, 0, 1, 0), "state");  // it is over
  });
  check_with_peer([](ClientPeer& p) { check_error(stems(p, 0, 200, 0), "too_large"); });
  ClientPeer fresh({8000, 1, "standard", "", "test"});
  check_error(stems(fresh, 0, 1, 0), "state");
  check_error(fresh.receive_text("{\"type\":\"ping\"}"), "state");
  check_error(fresh.receive_text(server::welcome(8, 0, 1)), "position");
  const ClientPeer::Event event =
      fresh.receive_text("{\"type\":\"error\",\"code\":\"token\",\"text\":\"a\\u0007b\"}");
  check_error(event, "token");
  CHECK(event.error.from_server);
  CHECK_EQ(event.error.text, "a b");
  check_error(fresh.receive_text("{\"type\":\"error\",\"code\":\"config\",\"text\":\"no\"}"),
              "config");
  CHECK_EQ(fresh.receive_text("{\"type\":\"error\",\"code\":\"\",\"text\":\"\"}").kind,
           Kind::kError);
}

void test_control_messages() {
  ClientPeer peer = welcomed_peer();
  CHECK_EQ(peer.receive_text("{\"type\":\"ping\",\"id\":7,\"time\":0.5}").kind, Kind::kNothing);
  CHECK_EQ(peer.take_replies().at(0), "{\"type\":\"pong\",\"id\":7,\"time\":0.5}");
  CHECK(peer.take_replies().empty());
  CHECK_EQ(peer.receive_text("{\"type\":\"song\"}").kind, Kind::kNothing);
  const auto refusal =
      peer.receive_text("{\"type\":\"error\",\"code\":\"config\",\"text\":\"no\",\"id\":1}");
  CHECK_EQ(refusal.kind, Kind::kRefusal);
  CHECK_EQ(refusal.id, 1);
  CHECK(peer.connected());
  CHECK_EQ(peer.receive_text("{\"type\":\"goodbye\",\"reason\":\"x\"}").kind, Kind::kGoodbye);
  CHECK(!peer.connected());
}

void test_streams() {
  ClientPeer peer = welcomed_peer();
  send_samples(peer, 8);
  stems(peer, 0, 2, 0);
  CHECK_EQ(peer.reset(), "{\"type\":\"reset\"}");
  CHECK_EQ(peer.stream(), 1);
  CHECK_EQ(peer.sendable(), 8);
  const FrameHeader head = send_samples(peer, 2);  // at once
  CHECK_EQ(head.stream, 1);
  CHECK_EQ(head.position, 0);
  CHECK_EQ(head.sequence, 1u);
  // Stems before the confirmation are checked for their sequence number and dropped.
  CHECK_EQ(stems(peer, 2, 2, 1).kind, Kind::kNothing);
  CHECK_EQ(peer.reset(), "{\"type\":\"reset\"}");
  CHECK_EQ(peer.receive_text("{\"type\":\"reset\",\"stream\":1}").kind, Kind::kNothing);
  CHECK_EQ(stems(peer, 0, 2, 2, 1).kind, Kind::kNothing);
  peer.receive_text("{\"type\":\"reset\",\"stream\":2}");
  send_samples(peer, 4);
  CHECK_EQ(stems(peer, 0, 4, 3, 2).kind, Kind::kAudio);
  peer.receive_text("{\"type\":\"reset\",\"stream\":2}");  // again: ignored
  check_error(stems(peer, 0, 1, 4, 1), "sequence");
  // Numbers wrap.
  ClientPeer old({8000, 1, "standard", "", "test"});
  old.connect();
  old.receive_text(server::welcome(8, 65535));
  old.reset();
  CHECK_EQ(old.stream(), 0);
}

void test_resume() {
  ClientPeer peer = welcomed_peer();
  send_samples(peer, 8);
  stems(peer, 0, 3, 0);
  peer.disconnected();
  CHECK_EQ(peer.sendable(), 0);
  const std::string hello = peer.connect();
  CHECK(hello.find("\"resume\":{\"session\":\"s\",\"key\":\"0123456789abcdef\",\"stream\":0,"
                   "\"position\":3}") != std::string::npos);
  const auto event = peer.receive_text(server::welcome(8, 0, 6));
  CHECK(event.resumed);
  CHECK_EQ(peer.sent(), 6);  // mixture is sent again from here
  CHECK_EQ(send_samples(peer, 2).sequence, 0u);
  CHECK_EQ(stems(peer, 3, 5, 0).gap, 0);
  for (const std::int64_t wrong : {2, 9}) {  // outside the mixture that is kept
    ClientPeer other = welcomed_peer();
    send_samples(other, 8);
    stems(other, 0, 3, 0);
    other.connect();
    check_error(other.receive_text(server::welcome(8, 0, wrong)), "resume");
  }
  ClientPeer other = welcomed_peer();
  other.connect();
  check_error(other.receive_text(server::welcome(8, 1, 0)), "resume");
  other.connect();
  check_error(other.receive_text(server::welcome(8, 0, 0, "another")), "resume");
  // A reset without a connection: the server continues with the stream named in hello.
  ClientPeer lost = welcomed_peer();
  send_samples(lost, 8);
  lost.disconnected();
  CHECK_EQ(lost.reset(), "");
  CHECK(lost.connect().find("\"stream\":1,\"position\":0}") != std::string::npos);
  CHECK(lost.receive_text(server::welcome(8, 1, 0)).resumed);
  CHECK(lost.take_replies().empty());
  CHECK_EQ(send_samples(lost, 1).stream, 1);
  // And one after hello was sent.
  lost.disconnected();
  lost.connect();
  lost.reset();
  CHECK(lost.receive_text(server::welcome(8, 1, 1)).resumed);
  CHECK_EQ(lost.take_replies().at(0), "{\"type\":\"reset\"}");
  CHECK_EQ(send_samples(lost, 1).stream, 2);
  CHECK_EQ(stems(lost, 0, 1, 0, 1).kind, Kind::kNothing);
  lost.receive_text("{\"type\":\"reset\",\"stream\":2}");
  CHECK_EQ(stems(lost, 0, 1, 1, 2).kind, Kind::kAudio);
}

void test_presets() {
  ClientPeer peer = welcomed_peer(100);
  CHECK_EQ(peer.latency(), 4);
  CHECK_EQ(peer.set_preset("low"), "{\"type\":\"control\",\"id\":1,\"preset\":\"low\"}");
  peer.receive_text(server::state(4, 0));  // still the old one
  peer.receive_text(server::state(2, 10));
  CHECK_EQ(peer.latency_at(9), 4);
  CHECK_EQ(peer.latency_at(10), 2);
  CHECK_EQ(peer.same_latency_run(4, 100), 6u);
  CHECK_EQ(peer.same_latency_run(10, 100), 100u);
  peer.receive_text(server::state(2, 3));  // of another change: the first stays where it is
  CHECK_EQ(peer.latency_at(9), 4);
  peer.disconnected();  // the request is repeated
  peer.connect();
  peer.receive_text(server::welcome(100));
  CHECK_EQ(peer.take_replies().at(0), "{\"type\":\"control\",\"id\":2,\"preset\":\"low\"}");
  peer.reset();
  peer.receive_text(server::state(7, 55));  // of the old stream; holds for the new one too
  CHECK_EQ(peer.latency_at(0), 7);
  for (int i = 0; i < 1000; ++i) peer.receive_text(server::state(i, i));  // memory stays bounded
  CHECK_EQ(peer.latency(), 999);
}

}  // namespace

int main() {
  const Json vectors = read_vectors();
  test_text_messages(vectors);
  test_client_messages(vectors);
  test_frames(vectors);
  test_flow();
  test_violations();
  test_control_messages();
  test_streams();
  test_resume();
  test_presets();
  return check::result();
}
