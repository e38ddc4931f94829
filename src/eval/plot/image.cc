#include "eval/plot/image.h"

#include <plplot/plplot.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "eval/plot/palette.h"
#include "tokenizer/utf8.h"

extern "C" const char* plGetDrvDir();  // of plplotP.h, which defines a thousand macros

namespace palu {
namespace {

std::string plplot_complaint;  // the first since a page was begun; guarded by RenderImage's mutex

void NoteComplaint(const char* message) {
  if (plplot_complaint.empty()) plplot_complaint = message;
}

// Where there is none at all PLplot would end the process.
bool HasDrivers() {
  const char* const folder = plGetDrvDir();
  std::error_code error;
  if (folder == nullptr) return false;
  const std::filesystem::directory_iterator files(folder, error);
  return std::any_of(begin(files), end(files),
                     [](const auto& file) { return file.path().extension() == ".driver_info"; });
}

// Asked for by name, a missing driver would make PLplot ask on the terminal for another.
bool HasDriver(const char* driver) {
  std::vector<const char*> titles(256), names(256);
  int count = static_cast<int>(names.size());
  const char **title_table = titles.data(), **name_table = names.data();
  plgDevs(&title_table, &name_table, &count);
  return std::any_of(names.begin(), names.begin() + count,
                     [&](const char* name) { return std::string(name) == driver; });
}

// A PLplot stream that writes to memory.
class Page {
 public:
  Page(const char* driver, const ImageSize& size) {
    std::FILE* file = open_memstream(&bytes_, &length_);
    Require(file != nullptr, "plots: out of memory");
    plmkstrm(&stream_);
    plsdev(driver);
    plsfile(file);  // PLplot closes it
    plspage(0, 0, size.width, size.height, 0, 0);
    SetColours();
    plinit();
    plschr(0, 0.85);
    pladv(0);
  }
  ~Page() {
    End();
    std::free(bytes_);
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  // Ends the page; the bytes of the file.
  std::string Finish() {
    End();
    return {bytes_, length_};
  }

 private:
  static void SetColours() {
    plscmap0n(kFirstSeriesColour + static_cast<int>(kSeriesColours.size()));
    plscol0(kWhite, 255, 255, 255);
    plscol0(kBlack, 30, 30, 30);
    plscol0(kGrid, 225, 225, 225);
    plscol0(kGrey, 130, 130, 130);
    for (size_t i = 0; i < kSeriesColours.size(); ++i) {
      const auto& colour = kSeriesColours[i];
      plscol0(SeriesColour(i), colour[0], colour[1], colour[2]);
    }
  }

  void End() {
    if (ended_) return;
    ended_ = true;
    plsstrm(stream_);
    plend1();
  }

  PLINT stream_ = 0;
  char* bytes_ = nullptr;
  size_t length_ = 0;
  bool ended_ = false;
};

// Cairo numbers its surfaces by process: the only part of an SVG that depends on earlier ones.
void DropSurfaceNumbers(std::string& svg) {
  constexpr std::string_view kSurface = "\"surface";
  for (size_t at = svg.find(kSurface); at != svg.npos; at = svg.find(kSurface, at + 1)) {
    const size_t digits = at + kSurface.size();
    svg.erase(digits, svg.find('"', digits) - digits);
  }
}

}  // namespace

std::string RenderImage(ImageFormat format, const ImageSize& size,
                        const std::function<void()>& draw) {
  static std::mutex plplot;  // it keeps its state in globals
  const std::lock_guard lock(plplot);
  const char* driver = format == ImageFormat::kSvg ? "svgcairo" : "pngcairo";
  plplot_complaint.clear();
  plsabort(NoteComplaint);
  Require(HasDrivers() && HasDriver(driver),
          "plots: PLplot finds no driver {}: install plplot-driver-cairo{}", driver,
          std::getenv("PLPLOT_DRV_DIR") ? " or unset PLPLOT_DRV_DIR" : "");
  Page page(driver, size);
  draw();
  std::string bytes = page.Finish();
  Require(plplot_complaint.empty(), "plots: {}", plplot_complaint);
  Require(!bytes.empty(), "plots: PLplot wrote nothing");
  if (format == ImageFormat::kSvg) DropSurfaceNumbers(bytes);
  return bytes;
}

std::string PlotText(std::string_view text) {
  std::string shown;
  for (const char c : SanitizeUtf8(text)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    shown += control ? ' ' : c;
    if (c == '#') shown += c;
  }
  return shown;
}

std::string ShortPlotText(std::string_view text, size_t characters) {
  const std::string whole = SanitizeUtf8(text);
  std::vector<size_t> starts;  // of the characters
  for (size_t at = 0; at < whole.size(); at += ReadUtf8(whole, at).length) starts.push_back(at);
  if (starts.size() <= characters) return PlotText(whole);
  const size_t kept = characters - 1, head = kept / 2, tail = starts.size() - (kept - head);
  return PlotText(whole.substr(0, starts[head]) + "…" + whole.substr(starts[tail]));
}

}  // namespace palu
