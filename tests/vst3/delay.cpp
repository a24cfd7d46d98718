// A stereo effect for tests: everything comes out `delay` samples later, times `gain`, and the
// plugin says so. Where KEEPS is defined it does not forget what it heard when it is reset.

#include <vector>

#include "DistrhoPlugin.hpp"

START_NAMESPACE_DISTRHO

class TestDelay : public Plugin {
public:
    TestDelay() : Plugin(2, 0, 0) {
        for (auto& line : lines_) line.assign(kMost, 0.0f);
        setLatency(delay_);
    }

protected:
    const char* getLabel() const override { return "test_delay"; }
    const char* getMaker() const override { return "Stemwire"; }
    const char* getLicense() const override { return "MIT"; }
    uint32_t getVersion() const override { return d_version(1, 0, 0); }
    int64_t getUniqueId() const override { return d_cconst('t', 'D', 'l', 'y'); }

    void initParameter(uint32_t index, Parameter& parameter) override {
        parameter.hints = kParameterIsAutomatable;
        if (index == 0) {
            parameter.name = parameter.symbol = "gain";
            parameter.ranges = {0.5f, 0.0f, 2.0f};
        } else {
            parameter.hints |= kParameterIsInteger;
            parameter.name = parameter.symbol = "delay";
            parameter.ranges = {100.0f, 0.0f, float(kMost - 1)};
        }
    }

    float getParameterValue(uint32_t index) const override {
        return index == 0 ? gain_ : float(delay_);
    }

    void setParameterValue(uint32_t index, float value) override {
        if (index == 0) {
            gain_ = value;
        } else {
            delay_ = uint32_t(value + 0.5f);
            setLatency(delay_);
        }
    }

    void activate() override {
#ifndef KEEPS
        for (auto& line : lines_) line.assign(kMost, 0.0f);
#endif
    }

    void run(const float** inputs, float** outputs, uint32_t frames) override {
        for (uint32_t i = 0; i < frames; ++i) {
            for (int channel = 0; channel < 2; ++channel) {
                auto& line = lines_[channel];
                line[at_] = inputs[channel][i];
                outputs[channel][i] = gain_ * line[(at_ + kMost - delay_) % kMost];
            }
            at_ = (at_ + 1) % kMost;
        }
    }

private:
    static constexpr uint32_t kMost = 8192;
    std::vector<float> lines_[2];
    uint32_t at_ = 0, delay_ = 100;
    float gain_ = 0.5f;
};

Plugin* createPlugin() { return new TestDelay(); }

END_NAMESPACE_DISTRHO
