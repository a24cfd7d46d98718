// The plugin as hosts see it: component, processor and controller in one object.
//
// Hosts set parameters in two ways, and most use both: `set_parameter` in their UI thread, and
// changes passed to `process`. Gains, bypass and preset may arrive either way at any time. Server,
// autostart and delay need more than the audio thread may do: if a change arrived with `process`
// alone, as from Ardour, the settings thread applies it. Offline, `process` may block, and applies
// it itself first.
//
// Threads, as VST3 has it: `process` is the audio thread's; `set_processing` may be; `parameter`,
// `set_parameter`, `text_of`, `value_of` and the conversions may come from any; everything else
// comes from the host's UI thread.
#pragma once

#include <array>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "remote_separator.h"
#include "vst3/abi.h"
#include "vst3/parameters.h"
#include "vst3/state.h"

namespace stemwire {

class Plugin final : public vst3::Component,
                     public vst3::Processor,
                     public vst3::Controller,
                     public vst3::ContextRequirements {
 public:
  static constexpr vst3::Iid class_id{0x5A1D7C60, 0x3E4B4F0B, 0x9C27D48E, 0x61B0F2A3};

  // Unknown
  vst3::Result query(const vst3::Id iid, void** object) override;
  std::uint32_t retain() override;
  std::uint32_t release() override;

  // PluginBase
  vst3::Result initialize(vst3::Unknown* host) override;
  vst3::Result terminate() override;

  // Component
  vst3::Result controller_class(vst3::Id class_id) override;
  vst3::Result set_io_mode(std::int32_t mode) override;
  std::int32_t bus_count(std::int32_t media, std::int32_t direction) override;
  vst3::Result bus_info(std::int32_t media, std::int32_t direction, std::int32_t index,
                        vst3::BusInfo* info) override;
  vst3::Result routing(vst3::RoutingInfo* input, vst3::RoutingInfo* output) override;
  vst3::Result activate_bus(std::int32_t media, std::int32_t direction, std::int32_t index,
                            vst3::Bool state) override;
  vst3::Result set_active(vst3::Bool state) override;
  vst3::Result set_state(vst3::Stream* stream) override;  // the controller's too
  vst3::Result get_state(vst3::Stream* stream) override;

  // Processor
  vst3::Result set_arrangements(vst3::Arrangement* inputs, std::int32_t input_count,
                                vst3::Arrangement* outputs, std::int32_t output_count) override;
  vst3::Result arrangement(std::int32_t direction, std::int32_t index,
                           vst3::Arrangement* result) override;
  vst3::Result can_process(std::int32_t sample_size) override;
  std::uint32_t latency() override;
  vst3::Result setup(vst3::ProcessSetup* setup) override;
  vst3::Result set_processing(vst3::Bool state) override;
  vst3::Result process(vst3::ProcessData* data) override;
  std::uint32_t tail() override;

  // Controller
  vst3::Result set_component_state(vst3::Stream* stream) override;
  std::int32_t parameter_count() override;
  vst3::Result parameter_info(std::int32_t index, vst3::ParameterInfo* info) override;
  vst3::Result text_of(vst3::ParameterId id, double value, vst3::Text text) override;
  vst3::Result value_of(vst3::ParameterId id, vst3::Char16* text, double* value) override;
  double to_plain(vst3::ParameterId id, double value) override;
  double to_normal(vst3::ParameterId id, double plain) override;
  double parameter(vst3::ParameterId id) override;
  vst3::Result set_parameter(vst3::ParameterId id, double value) override;
  vst3::Result set_handler(vst3::Handler* handler) override;
  vst3::Unknown* create_view(const char* name) override;

  // ContextRequirements
  std::uint32_t context_requirements() override;

 private:
  static constexpr int kOutputs = 1 + kStems;
  static constexpr int kMaxPoints = 64;  // where a block is split

  struct Point {
    int offset;
    vst3::ParameterId id;
    double value;
  };

  ~Plugin();
  // Any thread. Runs `work`; no exception reaches the host.
  template <typename Work>
  vst3::Result guarded(Work work) noexcept {
    try {
      return work();
    } catch (const std::bad_alloc&) {
      return vst3::kOutOfMemory;
    } catch (const std::exception& error) {
      return log_failure(error.what());
    } catch (...) {
      return log_failure("unknown");
    }
  }
  vst3::Result log_failure(const char* what) noexcept;

  // Settings thread.
  void run_settings_thread();

  // In plugin_settings.cpp. Not the audio thread in real time. `apply_settings` locks the mutex,
  // the others need it locked.
  void apply_settings(bool state = false);
  void load_servers();
  void update_server_names();
  Target target() const;
  State state() const;
  void apply_state(const State& state);

  // Any thread.
  int samples_of(int delay_index) const;
  double current_value(vst3::ParameterId id) const;

  // Audio thread; in plugin_audio.cpp.
  int collect_points(vst3::ParameterChanges* changes, int samples, bool inside);
  void apply_change(vst3::ParameterId id, double value, bool inside);
  bool render(const vst3::ProcessData& data, int points);
  void publish_parameters(vst3::ParameterChanges* changes);

  std::atomic<std::uint32_t> references_{1};
  Parameters parameters_;
  RemoteSeparator separator_;
  // Never locked by the audio thread in real time, nor held while the host is called.
  std::mutex mutex_;
  std::vector<NamedServer> servers_;  // of slots 1 and up
  vst3::Handler* handler_ = nullptr;
  std::atomic<double> rate_{44100.0};
  std::atomic<int> delay_{kDefaultDelay};      // index of the delay reported to the host
  std::atomic<bool> settings_changed_{false};  // by `process`, and not applied yet
  std::atomic<bool> stopping_{false};
  WakePipe settings_wake_;
  std::thread settings_thread_;
  int channels_ = 2;
  bool offline_ = false, processing_ = false, played_ = false;
  std::array<std::atomic<bool>, kOutputs> active_buses_;  // as activated by the host
  // Audio thread.
  std::array<Point, kMaxPoints> points_;
  std::array<double, kParameters> published_;  // read-only values sent to the host last
  // Any thread. Read-only values that the host queried last.
  std::array<std::atomic<double>, kParameters> queried_;

 public:
  Plugin();
};

}  // namespace stemwire
