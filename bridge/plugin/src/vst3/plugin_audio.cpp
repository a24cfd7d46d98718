// The plugin's audio-thread part. In real time it neither locks, allocates nor waits.
#include <algorithm>
#include <limits>

#include "vst3/plugin.h"

namespace stemwire {

using vst3::kOk;
using vst3::ParameterId;
using vst3::Result;

namespace {

constexpr int kSilence = 1024;
float silence[kSilence];  // for missing inputs; never written

bool splits(ParameterId id) { return id == kVocals || id == kInstrumental || id == kBypass; }

float* channel_of(const vst3::Buffers* buses, int count, int bus, int channel) {
  if (buses == nullptr || bus >= count || channel >= buses[bus].channels) return nullptr;
  return buses[bus].samples32 == nullptr ? nullptr : buses[bus].samples32[channel];
}

// Silences channels that the plugin does not fill.
void clear_unused(const vst3::ProcessData& data, int bus, int used) {
  for (int channel = used; channel < data.outputs[bus].channels; ++channel) {
    float* samples = channel_of(data.outputs, data.output_buses, bus, channel);
    if (samples != nullptr) std::fill_n(samples, data.samples, 0.0f);
  }
}

}  // namespace

Result Plugin::set_processing(vst3::Bool state) {
  const bool begins = state != 0 && !processing_;
  processing_ = state != 0;
  // Without a new stream, music from before the pause would follow it.
  if (begins && played_ && separator_.enter()) {
    played_ = false;
    separator_.begin_stream(separator_.offline(), parameters_.gains());
    separator_.leave();
  }
  return kOk;
}

Result Plugin::process(vst3::ProcessData* data) {
  if (data == nullptr || (data->samples > 0 && data->sample_size != vst3::kFloat32)) {
    return vst3::kInvalidArgument;
  }
  const bool audible = data->samples > 0, offline = data->mode == vst3::kOffline;
  bool inside = separator_.enter();
  // Some hosts start rendering without announcing it.
  if (audible && inside && offline != separator_.offline()) {
    separator_.begin_stream(offline, parameters_.gains());
  }
  const int points = collect_points(data->input_changes, data->samples, inside);
  if (audible && inside && offline && settings_changed_.load(std::memory_order_relaxed)) {
    separator_.leave();  // the host may answer by deactivating
    guarded([&] {
      apply_settings();
      return kOk;
    });
    inside = separator_.enter();
  }
  bool complete = true;
  if (audible && !inside) {
    for (int bus = 0; data->outputs != nullptr && bus < data->output_buses; ++bus) {
      clear_unused(*data, bus, 0);
    }
  } else if (audible) {
    complete = render(*data, points);
    played_ = true;
  }
  for (int point = 0; point < points; ++point) {
    parameters_.set(points_[point].id, points_[point].value);
  }
  publish_parameters(data->output_changes);
  if (inside) separator_.leave();
  return complete ? kOk : vst3::kFalse;
}

// Collects the points where gains change into `points_`, ordered by time, and applies all other
// changes at once. If there are too many points, each parameter's last one is kept.
int Plugin::collect_points(vst3::ParameterChanges* changes, int samples, bool inside) {
  int count = 0;
  const int queues = changes == nullptr ? 0 : changes->count();
  for (int index = 0; index < queues; ++index) {
    vst3::ParameterQueue* queue = changes->queue(index);
    if (queue == nullptr) continue;
    const ParameterId id = queue->id();
    const int points = queue->points();
    for (int point = 0; point < points; ++point) {
      const bool last = point == points - 1;
      if (!last && (!splits(id) || count >= kMaxPoints - 3)) continue;
      int offset = 0;
      double value = 0.0;
      if (queue->point(point, &offset, &value) != kOk) continue;
      if (!splits(id) || count == kMaxPoints) {
        apply_change(id, value, inside);
        continue;
      }
      points_[count++] = {std::clamp(offset, 0, std::max(samples, 0)), id, value};
    }
  }
  // Insertion sort: the points are few and nearly ordered, and std::stable_sort would allocate.
  for (int i = 1; i < count; ++i) {
    const Point moved = points_[i];
    int to = i;
    for (; to > 0 && points_[to - 1].offset > moved.offset; --to) points_[to] = points_[to - 1];
    points_[to] = moved;
  }
  return count;
}

void Plugin::apply_change(ParameterId id, double value, bool inside) {
  if (id >= kParameters || read_only(id)) return;
  const double before = parameters_.normal(id);
  parameters_.set(id, value);
  if (parameters_.normal(id) == before || splits(id)) return;
  if (id == kPreset) {
    if (inside) separator_.set_preset(parameters_.choice(kPreset));
  } else {
    settings_changed_.store(true);
    settings_wake_.raise();
  }
}

bool Plugin::render(const vst3::ProcessData& data, int points) {
  const int outputs = data.outputs == nullptr ? 0 : data.output_buses;
  int max_samples = data.samples;
  float* in[kMaxChannels] = {};
  for (int channel = 0; channel < channels_; ++channel) {
    in[channel] = channel_of(data.inputs, data.input_buses, 0, channel);
    if (in[channel] == nullptr) max_samples = std::min(max_samples, kSilence);
  }
  Outputs out;
  for (int bus = 0; bus < std::min(outputs, kOutputs); ++bus) {
    if (!active_buses_[bus].load(std::memory_order_relaxed)) continue;
    float** to = bus == 0 ? out.main : out.stems[bus - 1];
    for (int c = 0; c < channels_; ++c) to[c] = channel_of(data.outputs, outputs, bus, c);
  }
  bool complete = true;
  int next = 0;
  for (int at = 0; at < data.samples;) {
    for (; next < points && points_[next].offset <= at; ++next) {
      parameters_.set(points_[next].id, points_[next].value);
    }
    int n = std::min(max_samples, data.samples - at);
    if (next < points) n = std::min(n, points_[next].offset - at);
    const float* from[kMaxChannels] = {};
    Outputs to;
    for (int c = 0; c < channels_; ++c) {
      from[c] = in[c] == nullptr ? silence : in[c] + at;
      if (out.main[c] != nullptr) to.main[c] = out.main[c] + at;
      for (int stem = 0; stem < kStems; ++stem) {
        if (out.stems[stem][c] != nullptr) to.stems[stem][c] = out.stems[stem][c] + at;
      }
    }
    complete &= separator_.process(from, to, static_cast<std::size_t>(n), parameters_.gains());
    at += n;
  }
  separator_.end_block();
  for (int bus = 0; bus < outputs; ++bus) {
    const bool used = bus < kOutputs && active_buses_[bus].load(std::memory_order_relaxed);
    clear_unused(data, bus, used ? channels_ : 0);
    data.outputs[bus].silence = 0;
  }
  return complete;
}

// Publishes changed read-only parameters to the host.
void Plugin::publish_parameters(vst3::ParameterChanges* changes) {
  if (changes == nullptr) return;
  for (const ParameterId id : {kStatus, kDryBlocks, kReconnects}) {
    const double value = current_value(id);
    if (value == published_[id]) continue;
    std::int32_t index = 0;
    vst3::ParameterQueue* queue = changes->add(id, &index);
    if (queue != nullptr && queue->add(0, value, &index) == kOk) published_[id] = value;
  }
}

}  // namespace stemwire
