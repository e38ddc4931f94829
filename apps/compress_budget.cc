#include "compress_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "eval/divergence.h"
#include "format/compressed_model.h"

namespace palu::cli {
namespace {

// Prices of truncation that are tried: the usual one, as noise, and up to what coherent errors
// could make of it.
constexpr double kPrices[] = {kUsualTruncationPrice, 1.0, 2.25};

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Divergence of candidates, mean per token of every window.
class CandidateJudge {
 public:
  CandidateJudge(const Model& dense, const HeldOutText& text, const Exec& exec)
      : dense_(dense), text_(text), exec_(exec), scorer_(dense, exec) {}

  int64_t windows() const { return std::ssize(text_.ids) / text_.seqlen; }
  // on_window is called after each of them.
  std::vector<double> Divergences(const CompressionResult& candidate,
                                  const std::function<void()>& on_window) {
    const Model model = InMemory(dense_, candidate.compression, candidate.factors);
    Scorer scorer(model, exec_);
    std::vector<double> kl;
    for (int64_t w = 0; w < windows(); ++w) {
      const auto window = std::span(text_.ids).subspan(static_cast<size_t>(w * text_.seqlen),
                                                       static_cast<size_t>(text_.seqlen));
      kl.push_back(Divergence(scorer_, scorer, window, text_.seqlen).kl_mean);
      on_window();
    }
    return kl;
  }

 private:
  const Model& dense_;
  const HeldOutText& text_;
  Exec exec_;
  Scorer scorer_;
};

}  // namespace

bool BudgetCommand::Chosen() const {
  const auto given = [](const std::vector<const CLI::Option*>& list) {
    const auto found = std::find_if(list.begin(), list.end(),
                                    [](const CLI::Option* option) { return option->count() > 0; });
    return found == list.end() ? "" : (*found)->get_name();
  };
  const std::string ours = given(own), theirs = given(published);
  Require(ours.empty() || theirs.empty(),
          "{} compresses to a budget of bits and {} by the published method: give options of one "
          "of the two",
          ours, theirs);
  return theirs.empty();
}

BudgetCompressOptions BudgetCommand::Resolve(int64_t group_size,
                                             std::optional<DType> factor_dtype) const {
  BudgetCompressOptions resolved = options;
  resolved.group_size = group_size;
  resolved.factor_dtype = factor_dtype;
  resolved.allow_shared = latents != "separate";
  resolved.allow_separate = latents != "shared";
  if (prefer == "speed") resolved.work_weight = kSpeedWorkWeight;
  resolved.output_weighting = weighting == "two-sided";
  resolved.centered = !no_centering;
  std::sort(resolved.bits.rbegin(), resolved.bits.rend());
  resolved.truncation_price = truncation_price.value_or(kUsualTruncationPrice);
  return resolved;
}

void AddBudget(CLI::App& command, BudgetCommand& budget) {
  const auto add = [&](CLI::Option* option) {
    budget.own.push_back(option->group("Compression to a budget of bits, the default"));
  };
  add(command
          .add_option("--budget", budget.options.bits_per_element,
                      "stored bits per number of a dense cache, everything counted: latents, their "
                      "bits and what keys and values share follow from the calibration; the "
                      "default loses at most one per cent on the wiki models (docs/results.md)")
          ->capture_default_str());
  add(command
          .add_option("--prefer", budget.prefer,
                      "within the budget: what loses least, or what gives up some of that to "
                      "decode faster on the CPU")
          ->check(CLI::IsMember({"memory", "speed"}))
          ->capture_default_str());
  add(command
          .add_option("--latents", budget.latents,
                      "one latent for the keys and values of a group, or one each")
          ->check(CLI::IsMember({"auto", "shared", "separate"}))
          ->capture_default_str());
  add(command.add_option("--tier-bits", budget.options.bits, "bits that a tier may have")
          ->delimiter(',')
          ->check(CLI::IsMember({2, 3, 4, 8}))
          ->capture_default_str());
  add(command
          .add_option("--tier-block", budget.options.block,
                      "widths of tiers are multiples of this, a multiple of 16")
          ->capture_default_str());
  add(command
          .add_option("--recent", budget.options.recent,
                      "last tokens whose latents a sequence keeps in fp16, too, for the queries "
                      "that follow; counted at 2048 tokens of context")
          ->capture_default_str());
  add(command
          .add_option("--weighting", budget.weighting,
                      "errors of outputs count by the loss's gradient, or alike")
          ->check(CLI::IsMember({"two-sided", "inputs"}))
          ->capture_default_str());
  add(command
          .add_option("--damping", budget.options.damping,
                      "share of its mean diagonal that is added to the gradients' second moment")
          ->check(CLI::NonNegativeNumber)
          ->capture_default_str());
  add(command
          .add_option("--truncation-price", budget.truncation_price,
                      "what a discarded latent costs over noise of the same energy; by default the "
                      "usual 1.5, unless another diverges surely less on held-out windows of the "
                      "calibration text")
          ->check(CLI::PositiveNumber));
  add(command
          .add_option("--held-out-windows", budget.held_out_windows,
                      "windows for that, after those of the calibration; 0: take the usual price")
          ->check(CLI::NonNegativeNumber)
          ->capture_default_str());
  add(command.add_flag("--no-centering", budget.no_centering,
                       "leave the latents' mean in what is stored"));
}

void SetPublishedApart(CLI::App& command, BudgetCommand& budget) {
  for (const char* name :
       {"--ratio", "--search", "--decompose", "--bits", "--hadamard", "--no-hadamard",
        "--latent-basis", "--quant-group", "--symmetric", "--clip-ratio", "--rank-multiple"}) {
    budget.published.push_back(
        command.get_option(name)->group("The published method, if one of these is given"));
  }
}

CompressionResult CompressToBudget(const BudgetCommand& budget, const Model& model,
                                   const CalibrationStats& stats,
                                   const BudgetCompressOptions& options,
                                   const HeldOutText& held_out, const Exec& exec,
                                   Figures& figures) {
  const auto compressor = [&] {
    Progress progress("decompose", model.config().num_layers, "layers");
    return BudgetCompressor(model, stats, options, exec, [&] { progress.Tick(); });
  }();
  double price = options.truncation_price;
  if (!budget.truncation_price && !held_out.ids.empty()) {
    CandidateJudge judge(model, held_out, exec);
    Progress progress("price of truncation", std::ssize(kPrices) * judge.windows(), "windows");
    std::vector<double> least;
    for (const double tried : kPrices) {
      std::vector<double> kl =
          judge.Divergences(compressor.Compress(tried), [&] { progress.Tick(); });
      if (least.empty() || SurelyLess(kl, least)) {
        least = std::move(kl);
        price = tried;
      }
    }
    figures.emplace_back("KL on held-out calibration text, nats per token",
                         fmt::format("{:.5f}", Mean(least)));
  }
  CompressionResult result = compressor.Compress(price);
  figures.emplace_back("decode attention, predicted, ns per cached token on one CPU core",
                       fmt::format("{:.0f}", result.decode_work));
  const double loss = result.compression.predicted_loss;
  figures.emplace_back("price of truncation over noise", fmt::format("{:g}", price));
  figures.emplace_back("predicted rise of the loss, nats per token (perplexity)",
                       fmt::format("{:.5f} ({:+.2f} %)", loss, 100 * std::expm1(loss)));
  return result;
}

}  // namespace palu::cli
