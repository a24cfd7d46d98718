// Fuzzes saved states: any input is read safely, and what was read survives a round trip.
#include <cstdlib>
#include <string>

#include "vst3/state.h"

using namespace stemwire;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  State state;
  std::string problem;
  if (!read_state(text, state, problem)) {
    if (problem.empty()) std::abort();
    return 0;
  }
  const std::string written = write_state(state);
  State again;
  if (!read_state(written, again, problem) || write_state(again) != written) std::abort();
  return 0;
}
