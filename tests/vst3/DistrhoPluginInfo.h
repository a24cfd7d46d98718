// What DPF is to build: see delay.cpp.
#pragma once

#define DISTRHO_PLUGIN_BRAND "Stemwire"
#define DISTRHO_PLUGIN_NAME "Test Delay"
#define DISTRHO_PLUGIN_URI "urn:stemwire:test-delay"
#define DISTRHO_PLUGIN_BRAND_ID Stmw
#define DISTRHO_PLUGIN_UNIQUE_ID tDly

#define DISTRHO_PLUGIN_HAS_UI 0
#define DISTRHO_PLUGIN_IS_RT_SAFE 1
#define DISTRHO_PLUGIN_NUM_INPUTS 2
#define DISTRHO_PLUGIN_NUM_OUTPUTS 2
#define DISTRHO_PLUGIN_WANT_LATENCY 1
