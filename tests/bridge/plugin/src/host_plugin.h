// VST3 host side for the test host: a module, one instance, its buffers and parameter queues.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "vst3/abi.h"

namespace host {

namespace vst3 = stemwire::vst3;

inline void check(vst3::Result result, const char* what) {
  if (result != vst3::kOk) {
    throw std::runtime_error(std::string(what) + " gave " + std::to_string(result));
  }
}

// Objects of this host live as long as their owner; references are not counted.
template <typename Interface>
struct Owned : Interface {
  vst3::Result query(const vst3::Id iid, void** object) override {
    const bool known = vst3::same(iid, Interface::iid.bytes) ||
                       vst3::same(iid, vst3::Unknown::iid.bytes);
    *object = known ? this : nullptr;
    return known ? vst3::kOk : vst3::kNoInterface;
  }
  std::uint32_t retain() override { return 1; }
  std::uint32_t release() override { return 1; }
};

struct Queue final : Owned<vst3::ParameterQueue> {
  struct Point {
    std::int32_t offset;
    double value;
  };
  static constexpr int kRoom = 256;
  vst3::ParameterId parameter = 0;
  Point all[kRoom];
  int used = 0;

  vst3::ParameterId id() override { return parameter; }
  std::int32_t points() override { return used; }
  vst3::Result point(std::int32_t index, std::int32_t* offset, double* value) override {
    if (index < 0 || index >= used) return vst3::kInvalidArgument;
    *offset = all[index].offset;
    *value = all[index].value;
    return vst3::kOk;
  }
  vst3::Result add(std::int32_t offset, double value, std::int32_t* index) override {
    if (used == kRoom) return vst3::kOutOfMemory;
    *index = used;
    all[used++] = {offset, value};
    return vst3::kOk;
  }
};

struct Changes final : Owned<vst3::ParameterChanges> {
  static constexpr int kRoom = 16;
  Queue all[kRoom];
  int used = 0;

  std::int32_t count() override { return used; }
  vst3::ParameterQueue* queue(std::int32_t index) override { return &all[index]; }
  vst3::ParameterQueue* add(const vst3::ParameterId& id, std::int32_t* index) override {
    for (*index = 0; *index < used; ++*index) {
      if (all[*index].parameter == id) return &all[*index];
    }
    if (used == kRoom) return nullptr;
    all[used].parameter = id;
    all[used].used = 0;
    return &all[used++];
  }
};

struct Memory final : Owned<vst3::Stream> {  // a stream of bytes
  std::string bytes;
  std::size_t at = 0;

  vst3::Result read(void* to, std::int32_t wanted, std::int32_t* done) override {
    const auto n = std::min(bytes.size() - at, static_cast<std::size_t>(wanted));
    std::memcpy(to, bytes.data() + at, n);
    at += n;
    if (done != nullptr) *done = static_cast<std::int32_t>(n);
    return vst3::kOk;
  }
  vst3::Result write(void* from, std::int32_t given, std::int32_t* done) override {
    bytes.append(static_cast<const char*>(from), static_cast<std::size_t>(given));
    if (done != nullptr) *done = given;
    return vst3::kOk;
  }
  vst3::Result seek(std::int64_t, std::int32_t, std::int64_t*) override {
    return vst3::kNotImplemented;
  }
  vst3::Result tell(std::int64_t*) override { return vst3::kNotImplemented; }
};

struct Restarts final : Owned<vst3::Handler> {  // counts the plugin's requests to its host
  std::atomic<int> latency_changes{0}, value_changes{0};
  vst3::Result begin_edit(vst3::ParameterId) override { return vst3::kOk; }
  vst3::Result perform_edit(vst3::ParameterId, double) override { return vst3::kOk; }
  vst3::Result end_edit(vst3::ParameterId) override { return vst3::kOk; }
  vst3::Result restart(std::int32_t flags) override {
    if ((flags & kLatencyChanged) != 0) ++latency_changes;
    if ((flags & kValuesChanged) != 0) ++value_changes;
    return vst3::kOk;
  }
};

class Module {
 public:
  explicit Module(const std::string& path) {
    library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) throw std::runtime_error(dlerror());
    symbol<bool (*)(void*)>("ModuleEntry")(library_);
    factory = symbol<vst3::Factory* (*)()>("GetPluginFactory")();
  }
  ~Module() {
    symbol<bool (*)()>("ModuleExit")();
    dlclose(library_);
  }

  vst3::Factory* factory = nullptr;

 private:
  template <typename Function>
  Function symbol(const char* name) {
    void* found = dlsym(library_, name);
    if (found == nullptr) throw std::runtime_error(std::string("no ") + name);
    return reinterpret_cast<Function>(found);
  }

  void* library_ = nullptr;
};

// One plugin. Buffers are planar; outputs are main, vocals, instrumental.
class Instance {
 public:
  Instance(Module& module, int channels, int max_samples, bool stems)
      : channels_(channels), max_samples_(max_samples), buses_(stems ? 3 : 1) {
    vst3::ClassInfo info{};
    check(module.factory->class_info(0, &info), "class_info");
    void* object = nullptr;
    const auto* class_id = reinterpret_cast<const char*>(info.class_id);
    const auto* iid = reinterpret_cast<const char*>(vst3::Component::iid.bytes);
    check(module.factory->create(class_id, iid, &object), "create");
    component = static_cast<vst3::Component*>(object);
    check(component->initialize(nullptr), "initialize");
    check(component->query(vst3::Processor::iid.bytes, &object), "query");
    processor = static_cast<vst3::Processor*>(object);
    check(component->query(vst3::Controller::iid.bytes, &object), "query");
    controller = static_cast<vst3::Controller*>(object);
    check(controller->set_handler(&restarts), "set_handler");
    for (int bus = 0; bus < 4; ++bus) {
      memory_[bus].assign(static_cast<std::size_t>(channels * max_samples), 0.0f);
      for (int c = 0; c < channels; ++c) {
        pointers_[bus][c] = memory_[bus].data() + c * max_samples;
      }
    }
  }

  ~Instance() {
    activate(false);
    controller->set_handler(nullptr);
    component->terminate();
    controller->release();
    processor->release();
    component->release();
  }

  void setup(double rate, bool offline) {
    vst3::Arrangement all[3];
    for (auto& one : all) one = channels_ == 1 ? vst3::kMono : vst3::kStereo;
    check(processor->set_arrangements(all, 1, all, 3), "set_arrangements");
    const std::int32_t mode = offline ? vst3::kOffline : vst3::kRealtime;
    vst3::ProcessSetup setup{mode, vst3::kFloat32, max_samples_, rate};
    check(processor->setup(&setup), "setup");
    component->activate_bus(vst3::kAudio, vst3::kInput, 0, 1);
    for (int bus = 0; bus < 3; ++bus) {
      component->activate_bus(vst3::kAudio, vst3::kOutput, bus, bus < buses_);
    }
    offline_ = offline;
  }

  void activate(bool on) {
    if (on == active_) return;
    if (on) {
      check(component->set_active(1), "set_active");
      processor->set_processing(1);
    } else {
      processor->set_processing(0);
      check(component->set_active(0), "set_active");
    }
    active_ = on;
  }

  // Sets a parameter by title, to a value as text.
  void set(const std::string& title, const std::string& text) {
    const vst3::ParameterId id = find(title);
    controller->set_parameter(id, value(id, text));
  }

  vst3::ParameterId find(const std::string& title) {
    for (std::int32_t index = 0; index < controller->parameter_count(); ++index) {
      vst3::ParameterInfo info{};
      check(controller->parameter_info(index, &info), "parameter_info");
      std::string ascii;
      for (const auto* c = info.title; *c != 0; ++c) ascii += static_cast<char>(*c);
      if (ascii == title) return info.id;
    }
    throw std::runtime_error("no parameter " + title);
  }

  double value(vst3::ParameterId id, const std::string& text) {
    vst3::Text wide{};
    for (std::size_t i = 0; i < text.size(); ++i) wide[i] = static_cast<unsigned char>(text[i]);
    double found = 0.0;
    check(controller->value_of(id, wide, &found), ("value_of " + text).c_str());
    return found;
  }

  double plain(vst3::ParameterId id) { return controller->to_plain(id, controller->parameter(id)); }

  std::string text(vst3::ParameterId id) {
    vst3::Text wide{};
    check(controller->text_of(id, controller->parameter(id), wide), "text_of");
    std::string ascii;
    for (const auto* c = wide; *c != 0; ++c) ascii += static_cast<char>(*c);
    return ascii;
  }

  float* in(int channel) { return pointers_[3][channel]; }
  float* out(int bus, int channel) { return pointers_[bus][channel]; }

  // Data for `processor->process`.
  vst3::ProcessData& prepare(int samples) {
    input_ = {channels_, 0, {pointers_[3]}};
    for (int bus = 0; bus < buses_; ++bus) outputs_[bus] = {channels_, 0, {pointers_[bus]}};
    data_ = {};
    data_.mode = offline_ ? vst3::kOffline : vst3::kRealtime;
    data_.sample_size = vst3::kFloat32;
    data_.samples = samples;
    data_.input_buses = 1;
    data_.output_buses = buses_;
    data_.inputs = &input_;
    data_.outputs = outputs_;
    data_.input_changes = &changes;
    sent.used = 0;
    data_.output_changes = &sent;
    return data_;
  }

  vst3::Component* component = nullptr;
  vst3::Processor* processor = nullptr;
  vst3::Controller* controller = nullptr;
  Changes changes, sent;
  Restarts restarts;

 private:
  const int channels_, max_samples_, buses_;
  bool active_ = false, offline_ = false;
  std::vector<float> memory_[4];
  float* pointers_[4][2] = {};
  vst3::Buffers input_{}, outputs_[3]{};
  vst3::ProcessData data_{};
};

}  // namespace host
