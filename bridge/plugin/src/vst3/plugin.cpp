#include "vst3/plugin.h"

#include <cmath>
#include <utility>

namespace stemwire {

using vst3::kFalse;
using vst3::kInvalidArgument;
using vst3::kOk;
using vst3::Result;

namespace {

constexpr double kFloat32Step = 1e-7;  // hosts may keep values in float32
constexpr double kMinRate = 1000.0, kMaxRate = 1e6;
constexpr const char* kBusNames[] = {"Out", "Vocals", "Instrumental"};

int channels_of(vst3::Arrangement arrangement) {
  int channels = 0;
  for (; arrangement != 0; arrangement &= arrangement - 1) ++channels;
  return channels;
}

}  // namespace

Plugin::Plugin() {
  for (int bus = 0; bus < kOutputs; ++bus) active_buses_[bus].store(bus == 0);
  published_.fill(-1.0);
  for (auto& value : queried_) value.store(-1.0);
}

Plugin::~Plugin() { terminate(); }

Result Plugin::log_failure(const char* what) noexcept {
  try {
    separator_.log(std::string("internal error: ") + what);
  } catch (...) {  // nothing more can be done
  }
  return vst3::kInternalError;
}

// --- Unknown, PluginBase

Result Plugin::query(const vst3::Id iid, void** object) {
  if (object == nullptr) return kInvalidArgument;
  const auto is = [&](const vst3::Iid& known) { return vst3::same(iid, known.bytes); };
  if (is(Unknown::iid) || is(PluginBase::iid) || is(Component::iid)) {
    *object = static_cast<vst3::Component*>(this);
  } else if (is(Processor::iid)) {
    *object = static_cast<vst3::Processor*>(this);
  } else if (is(Controller::iid)) {
    *object = static_cast<vst3::Controller*>(this);
  } else if (is(ContextRequirements::iid)) {
    *object = static_cast<vst3::ContextRequirements*>(this);
  } else {
    *object = nullptr;
    return vst3::kNoInterface;
  }
  retain();
  return kOk;
}

std::uint32_t Plugin::retain() { return ++references_; }

std::uint32_t Plugin::release() {
  const std::uint32_t left = --references_;
  if (left == 0) delete this;
  return left;
}

// Hosts that treat component and controller as two objects call this twice.
Result Plugin::initialize(vst3::Unknown*) {
  return guarded([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (settings_thread_.joinable()) return kOk;
    if (servers_.empty()) load_servers();
    stopping_.store(false);
    settings_thread_ = std::thread([this] { run_settings_thread(); });
    return kOk;
  });
}

Result Plugin::terminate() {
  stopping_.store(true);
  settings_wake_.raise();
  if (settings_thread_.joinable()) settings_thread_.join();
  vst3::Handler* handler = nullptr;
  const Result result = guarded([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    separator_.shut_down();
    std::swap(handler, handler_);
    return kOk;
  });
  if (handler != nullptr) handler->release();
  return result;
}

// --- Component

Result Plugin::controller_class(vst3::Id) { return kFalse; }  // it is this object
Result Plugin::set_io_mode(std::int32_t) { return vst3::kNotImplemented; }
Result Plugin::routing(vst3::RoutingInfo*, vst3::RoutingInfo*) { return vst3::kNotImplemented; }

std::int32_t Plugin::bus_count(std::int32_t media, std::int32_t direction) {
  if (media != vst3::kAudio) return 0;
  return direction == vst3::kInput ? 1 : direction == vst3::kOutput ? kOutputs : 0;
}

Result Plugin::bus_info(std::int32_t media, std::int32_t direction, std::int32_t index,
                        vst3::BusInfo* info) {
  if (info == nullptr || index < 0 || index >= bus_count(media, direction)) return kInvalidArgument;
  *info = {};
  info->media = media;
  info->direction = direction;
  info->channels = channels_;
  to_utf16(direction == vst3::kInput ? "In" : kBusNames[index], info->name, 128);
  info->type = index == 0 ? vst3::kMain : vst3::kAux;
  info->flags = index == 0 ? vst3::BusInfo::kDefaultActive : 0;
  return kOk;
}

Result Plugin::activate_bus(std::int32_t media, std::int32_t direction, std::int32_t index,
                            vst3::Bool state) {
  if (index < 0 || index >= bus_count(media, direction)) return kInvalidArgument;
  if (direction == vst3::kOutput) active_buses_[index].store(state != 0);
  return kOk;
}

Result Plugin::set_active(vst3::Bool state) {
  return guarded([&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state == 0) {
      separator_.deactivate();
      return kOk;
    }
    if (separator_.active()) return kOk;
    settings_changed_.store(false);
    delay_.store(parameters_.choice(kDelay));
    StreamSettings settings;
    settings.rate = static_cast<int>(std::lround(rate_.load()));
    settings.channels = channels_;
    settings.offline = offline_;
    settings.delay = samples_of(delay_.load());
    settings.max_delay = samples_of(kDelays - 1);
    settings.preset = parameters_.choice(kPreset);
    published_.fill(-1.0);
    played_ = false;
    separator_.activate(settings, target(), parameters_.gains());
    return kOk;
  });
}

Result Plugin::set_state(vst3::Stream* stream) {
  if (stream == nullptr) return kInvalidArgument;
  return guarded([&] {
    std::string text, problem;
    State read;
    const bool complete = read_all(*stream, text);
    if (!complete || !read_state(text, read, problem)) {
      separator_.log(complete ? problem : "saved state: cannot be read");
      return kFalse;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      apply_state(read);
    }
    apply_settings(true);
    return kOk;
  });
}

Result Plugin::get_state(vst3::Stream* stream) {
  if (stream == nullptr) return kInvalidArgument;
  return guarded([&] {
    apply_settings();
    std::string text;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      text = write_state(state());
    }
    return write_all(*stream, text) ? kOk : kFalse;
  });
}

// --- Processor, except for the audio thread's part

Result Plugin::set_arrangements(vst3::Arrangement* inputs, std::int32_t input_count,
                                vst3::Arrangement* outputs, std::int32_t output_count) {
  if (input_count < 0 || output_count < 0 || (input_count > 0 && inputs == nullptr) ||
      (output_count > 0 && outputs == nullptr)) {
    return kInvalidArgument;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (separator_.active() || input_count != 1 || output_count < 1 || output_count > kOutputs) {
    return kFalse;
  }
  const int channels = channels_of(inputs[0]);
  bool fits = channels >= 1 && channels <= kMaxChannels;
  for (int bus = 0; bus < output_count; ++bus) {
    // Hosts may give an unused stem no channels.
    const bool empty = bus > 0 && outputs[bus] == 0;
    fits = fits && (empty || channels_of(outputs[bus]) == channels);
  }
  if (fits) channels_ = channels;
  return fits ? kOk : kFalse;
}

Result Plugin::arrangement(std::int32_t direction, std::int32_t index, vst3::Arrangement* result) {
  if (result == nullptr || index < 0 || index >= bus_count(vst3::kAudio, direction)) {
    return kInvalidArgument;
  }
  *result = channels_ == 1 ? vst3::kMono : vst3::kStereo;
  return kOk;
}

Result Plugin::can_process(std::int32_t sample_size) {
  return sample_size == vst3::kFloat32 ? kOk : kFalse;
}

Result Plugin::setup(vst3::ProcessSetup* setup) {
  if (setup == nullptr) return kInvalidArgument;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (separator_.active() || setup->sample_size != vst3::kFloat32) return kFalse;
  if (!(setup->rate >= kMinRate && setup->rate <= kMaxRate)) return kInvalidArgument;
  rate_.store(setup->rate);
  offline_ = setup->mode == vst3::kOffline;
  delay_.store(parameters_.choice(kDelay));
  return kOk;
}

std::uint32_t Plugin::latency() { return static_cast<std::uint32_t>(samples_of(delay_.load())); }
std::uint32_t Plugin::tail() { return latency(); }
std::uint32_t Plugin::context_requirements() { return 0; }

// --- Controller

Result Plugin::set_component_state(vst3::Stream* stream) { return set_state(stream); }
std::int32_t Plugin::parameter_count() { return kParameters; }

Result Plugin::parameter_info(std::int32_t index, vst3::ParameterInfo* info) {
  if (info == nullptr || index < 0 || index >= kParameters) return kInvalidArgument;
  Parameters::describe(static_cast<vst3::ParameterId>(index), info);
  return kOk;
}

Result Plugin::text_of(vst3::ParameterId id, double value, vst3::Text text) {
  if (id >= kParameters || text == nullptr) return kInvalidArgument;
  return guarded([&] {
    // Hosts that ignore published values (JUCE's) ask for the text of the value that they queried
    // last. They mean the current one.
    const bool stale = read_only(id) && std::fabs(value - queried_[id].load()) < kFloat32Step;
    to_utf16(parameters_.text(id, stale ? current_value(id) : value), text, 128);
    return kOk;
  });
}

Result Plugin::value_of(vst3::ParameterId id, vst3::Char16* text, double* value) {
  if (id >= kParameters || text == nullptr || value == nullptr) return kInvalidArgument;
  return guarded([&] { return parameters_.value(id, to_utf8(text, 128), value) ? kOk : kFalse; });
}

double Plugin::to_plain(vst3::ParameterId id, double value) {
  return id < kParameters ? Parameters::to_plain(id, value) : value;
}

double Plugin::to_normal(vst3::ParameterId id, double plain) {
  return id < kParameters ? Parameters::to_normal(id, plain) : plain;
}

double Plugin::parameter(vst3::ParameterId id) {
  if (id >= kParameters) return 0.0;
  if (!read_only(id)) return parameters_.normal(id);
  const double value = current_value(id);
  queried_[id].store(value, std::memory_order_relaxed);
  return value;
}

// Current normalised value of a read-only parameter.
double Plugin::current_value(vst3::ParameterId id) const {
  const Counters& counters = separator_.counters();
  const auto& count = id == kDryBlocks ? counters.dry_blocks : counters.reconnects;
  const double value = id == kStatus ? static_cast<double>(separator_.status())
                                     : static_cast<double>(count.load(std::memory_order_relaxed));
  return Parameters::to_normal(id, value);
}

Result Plugin::set_parameter(vst3::ParameterId id, double value) {
  if (id >= kParameters) return kInvalidArgument;
  if (read_only(id)) return kOk;  // hosts echo published values
  parameters_.set(id, value);
  // Some hosts move faders from their audio thread.
  if (id == kVocals || id == kInstrumental || id == kBypass) return kOk;
  return guarded([&] {
    apply_settings();
    return kOk;
  });
}

Result Plugin::set_handler(vst3::Handler* handler) {
  if (handler != nullptr) handler->retain();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(handler, handler_);
  }
  if (handler != nullptr) handler->release();
  return kOk;
}

vst3::Unknown* Plugin::create_view(const char*) { return nullptr; }  // hosts show a list

}  // namespace stemwire
