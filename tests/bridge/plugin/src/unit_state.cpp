// Saved states: round trips, defaults and damage.
#include "vst3/state.h"

#include <string>

#include "check.h"
#include "vst3/parameters.h"

using namespace stemwire;

namespace {

bool same(const State& a, const State& b) {
  return a.vocals == b.vocals && a.instrumental == b.instrumental && a.bypass == b.bypass &&
         a.preset == b.preset && a.delay_ms == b.delay_ms && a.server.name == b.server.name &&
         a.server.url == b.server.url && a.server.token == b.server.token &&
         a.autostart == b.autostart;
}

State another() {
  State state;
  state.vocals = -6.05;
  state.instrumental = 11.99;
  state.bypass = true;
  state.preset = 1;
  state.delay_ms = 400;
  state.server = {"st\"u\\dio €", "ws://10.0.0.5:8765", std::string("a\x01b", 3)};
  state.autostart = false;
  return state;
}

void there_and_back() {
  for (const State& state : {State(), another()}) {
    State read = another();
    std::string problem;
    CHECK(read_state(write_state(state), read, problem));
    CHECK_EQ(problem, "");
    CHECK(same(read, state));
  }
  for (int hundredth = -6000; hundredth <= 1200; ++hundredth) {
    State state, read;
    std::string problem;
    state.vocals = db_of(fader_of(hundredth / 100.0));
    CHECK(read_state(write_state(state), read, problem));
    CHECK_EQ(read.vocals, state.vocals);
  }
}

void defaults() {
  State read = another();
  std::string problem;
  CHECK(read_state("{\"stemwire\": 1}", read, problem));
  CHECK(same(read, State()));
  CHECK(read_state("{\"stemwire\": 99, \"vocals\": -1, \"new\": [null]}", read, problem));
  CHECK_EQ(read.vocals, -1.0);
}

void damage() {
  for (const char* text :
       {"", "{", "[]", "1", "{}", "{\"stemwire\": 0}", "{\"stemwire\": 1.5}",
        "{\"stemwire\": 1, \"vocals\": \"-6\"}", "{\"stemwire\": 1, \"vocals\": -61}",
        "{\"stemwire\": 1, \"bypass\": 0}", "{\"stemwire\": 1, \"preset\": \"\"}",
        "{\"stemwire\": 1, \"delay\": 60.5}", "{\"stemwire\": 1, \"delay\": -60}",
        "{\"stemwire\": 1, \"server\": []}", "{\"stemwire\": 1, \"server\": {\"url\": 5}}",
        "{\"stemwire\": 1, \"server\": {\"url\": \"ws://x:1\"}}",
        "{\"stemwire\": 1, \"autostart\": null}"}) {
    State state = another();
    std::string problem;
    CHECK(!read_state(text, state, problem));
    CHECK(problem.rfind("saved state", 0) == 0);
    CHECK(same(state, another()));
  }
}

// A host's stream that transfers a few bytes at a time and may fail.
struct Slow final : vst3::Stream {
  std::string bytes;
  std::size_t at = 0;
  int most = 3, left = 1 << 20;

  vst3::Result query(const vst3::Id, void**) override { return vst3::kNoInterface; }
  std::uint32_t retain() override { return 1; }
  std::uint32_t release() override { return 1; }
  vst3::Result read(void* to, std::int32_t wanted, std::int32_t* done) override {
    if (--left < 0) return vst3::kInternalError;
    const auto n = std::min({static_cast<std::size_t>(std::min(wanted, most)), bytes.size() - at});
    std::copy_n(bytes.data() + at, n, static_cast<char*>(to));
    at += n;
    *done = static_cast<std::int32_t>(n);
    return vst3::kOk;
  }
  vst3::Result write(void* from, std::int32_t given, std::int32_t* done) override {
    if (--left < 0) return vst3::kInternalError;
    *done = std::min(given, most);
    bytes.append(static_cast<const char*>(from), static_cast<std::size_t>(*done));
    return vst3::kOk;
  }
  vst3::Result seek(std::int64_t, std::int32_t, std::int64_t*) override { return vst3::kFalse; }
  vst3::Result tell(std::int64_t*) override { return vst3::kFalse; }
};

void streams() {
  Slow stream;
  const std::string text = write_state(another());
  CHECK(write_all(stream, text));
  CHECK_EQ(stream.bytes, text);
  std::string read;
  CHECK(read_all(stream, read));
  CHECK_EQ(read, text);
  Slow failing;
  failing.left = 2;
  CHECK(!write_all(failing, text));
  Slow refusing;
  refusing.left = 0;
  CHECK(!read_all(refusing, read));
  Slow endless;
  endless.bytes.assign(100000, ' ');
  CHECK(!read_all(endless, read));
}

}  // namespace

int main() {
  there_and_back();
  defaults();
  damage();
  streams();
  return check::result();
}
