// Error messages are asserted by the part that matters.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

namespace palu::testing {

inline void ExpectHas(std::string_view text, std::string_view part) {
  EXPECT_NE(text.find(part), text.npos) << "in:       " << text << "\nexpected: " << part;
}

}  // namespace palu::testing
