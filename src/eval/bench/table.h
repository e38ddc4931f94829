// Text tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace palu {

// Rows of equally many cells, the first of them the heading; columns padded, aligned right.
std::string MarkdownTable(const std::vector<std::vector<std::string>>& rows);

// Quoted where it holds a comma, a quote or a line end (RFC 4180).
std::string CsvCell(std::string_view text);

}  // namespace palu
