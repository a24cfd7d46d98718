// C interface to the network's step and the STFT, called by realtime/backends/native_*.py.
//
// A network is read-only after construction and may be used by any number of threads; a workspace
// belongs to one thread at a time. Nothing is allocated during a step.
#include <cpuid.h>

#include <cstdio>
#include <exception>
#include <memory>

#include "separator.h"
#include "stft.h"

using stemwire::Arena;
using stemwire::Config;
using stemwire::Row;
using stemwire::Separator;
using stemwire::StreamingStft;
using stemwire::Weights;

namespace {

struct Network {
  Arena arena{stemwire::kHuge};
  std::unique_ptr<Separator> separator;
};

struct Workspace {
  Arena arena{stemwire::kHuge};
  std::vector<Row> rows;
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Whether this processor has the instructions that the library was built with.
int stemwire_runs_here() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool halves = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  return halves && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// For checks that the caller was written for the same interface.
int stemwire_config_size() { return int(sizeof(Config)); }

int stemwire_most() { return stemwire::kMaxStreams; }

// Network with the tensors of a checkpoint, float32. Null if they do not fit `config`, with the reason
// in `error` (of `size` bytes; empty if out of memory).
Network* stemwire_network(const Config* config, int tensors, const char* const* names,
                          const float* const* values, const int* ranks,
                          const int64_t* const* shapes, char* error, int size) {
  try {
    auto network = std::make_unique<Network>();
    Weights weights(network->arena);
    for (int i = 0; i < tensors; ++i)
      weights.add(names[i], values[i], {shapes[i], shapes[i] + ranks[i]});
    network->separator = std::make_unique<Separator>(*config, weights);
    return network.release();
  } catch (const std::invalid_argument& e) {
    std::snprintf(error, size_t(size), "%s", e.what());
  } catch (const std::bad_alloc&) {
    error[0] = 0;
  }
  return nullptr;
}

void stemwire_network_free(Network* network) { delete network; }

// Floats of a stream's state, which starts as zeros.
int64_t stemwire_state(const Network* network) { return int64_t(network->separator->state()); }

// Scratch memory for steps of up to `most` streams; null if out of memory.
Workspace* stemwire_workspace(const Network* network, int most) {
  try {
    auto workspace = std::make_unique<Workspace>();
    workspace->rows.resize(size_t(most));
    for (Row& row : workspace->rows) network->separator->allocate(workspace->arena, row);
    return workspace.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void stemwire_workspace_free(Workspace* workspace) { delete workspace; }

// One frame of each of `count` streams. `frames` and `vocals` are complex64, (channels, bins + 1);
// `ages` count the frames of each stream and are incremented.
void stemwire_step(const Network* network, Workspace* workspace, int count,
                   const float* const* frames, float* const* states, int64_t* const* ages,
                   float* const* vocals) {
  for (int r = 0; r < count; ++r) {
    Row& row = workspace->rows[size_t(r)];
    row.frame = frames[r];
    row.state = states[r];
    row.age = (*ages[r])++;
    row.vocals = vocals[r];
    row.earlier = r && states[r] == states[r - 1] ? (&row)[-1].earlier + 1 : 0;
  }
  network->separator->step({workspace->rows.data(), count});
}

// See StreamingStft; null if out of memory. It belongs to one stream and one thread at a time.
StreamingStft* stemwire_stft(int channels, int size, int hop, int bins, const float* analysis,
                             const float* synthesis) {
  try {
    return new StreamingStft(channels, size, hop, bins, analysis, synthesis);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void stemwire_stft_free(StreamingStft* stft) { delete stft; }

void stemwire_stft_reset(StreamingStft* stft) { stft->reset(); }

void stemwire_analyse(StreamingStft* stft, const float* hop, float* frame) {
  stft->analyse(hop, frame);
}

void stemwire_synthesise(StreamingStft* stft, const float* frame, float* hop) {
  stft->synthesise(frame, hop);
}

}  // extern "C"
#pragma GCC visibility pop
