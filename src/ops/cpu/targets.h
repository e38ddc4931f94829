// Include before any Highway header. Code for AVX-512, AVX2 (which implies FMA and F16C) and SSE4
// is enough; Highway adds a scalar path for CPUs older than 2008 and other architectures' own
// vectors.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
