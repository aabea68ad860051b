// The progress line of the commands (MakeProgress of cli.h).
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <string>
#include <vector>

#include "lib/base/checked.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRedrawInterval = std::chrono::milliseconds(200);
constexpr auto kLineInterval = std::chrono::seconds(2);  // between plain lines: a quick job prints none

std::string FormatDuration(double seconds) {
  const long long whole = std::llround(seconds), minutes = whole / 60;
  char text[32];
  if (minutes >= 60)
    std::snprintf(text, sizeof text, "%lldh%02lldm", minutes / 60, minutes % 60);
  else
    std::snprintf(text, sizeof text, "%lldm%02llds", minutes, whole % 60);
  return text;
}

// "2026-01-31T12:03:10Z", which begins a line in a log.
std::string Clockface() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  ::gmtime_r(&now, &parts);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
}

// Columns that a redrawn line may take without wrapping.
size_t ColumnsOf(int fd) {
  struct winsize size = {};
  const bool told = ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return told ? static_cast<size_t>(size.ws_col) - 1 : 79;
}

// Advance() only adds; a thread that finds the lock taken leaves the drawing to its holder.
class TerminalProgress : public ProgressObserver {
 public:
  explicit TerminalProgress(bool terminal) : terminal_(terminal) {}

  void Start(uint64_t total_bytes) override { StartFrom({total_bytes}); }

  void StartFrom(const ProgressTotals& totals) override {
    std::lock_guard<std::mutex> lock(mutex_);
    totals_ = totals;
    done_ = totals.bytes_before;
    units_ = totals.units_before;
    files_ = totals.files_before;
    tenth_ = Tenths(done_);
    start_ = last_draw_ = Clock::now();
  }

  void UnitDone() override { ++units_; }
  void FileDone() override { ++files_; }

  void Advance(uint64_t bytes) override {
    const uint64_t done = done_.fetch_add(bytes) + bytes;
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    const Clock::time_point now = Clock::now();
    const bool due =
        terminal_ ? now - last_draw_ >= kRedrawInterval : Tenths(done) > tenth_ && now - last_draw_ >= kLineInterval;
    if (!due) return;
    tenth_ = Tenths(done);
    last_draw_ = now;
    drew_ = true;
    Draw(done, now);
  }

  void Step(const char* what) override {
    std::lock_guard<std::mutex> lock(mutex_);
    EndLine();
    Print(stderr, "%s%s\n", terminal_ ? "" : Clockface() + " ", what);
  }

  void Finish() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (terminal_ || drew_) Draw(done_, Clock::now());
    EndLine();
  }

 private:
  int Tenths(uint64_t done) const {
    return totals_.bytes == 0 ? 10
                              : static_cast<int>(10.0 * static_cast<double>(done) / static_cast<double>(totals_.bytes));
  }

  // What there is to say, the most telling first; as much of it as fits on the line.
  void Draw(uint64_t done, Clock::time_point now) {
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const uint64_t since = done - std::min(done, totals_.bytes_before);
    const double rate = seconds > 0 ? static_cast<double>(since) / seconds : 0;
    const double total = static_cast<double>(totals_.bytes);
    const double fraction = totals_.bytes == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / total);
    char percent[16];
    std::snprintf(percent, sizeof percent, "%.0f %%", 100 * fraction);
    std::vector<std::string> said{percent, FormatBytes(static_cast<uint64_t>(rate)) + "/s"};
    if (fraction < 1 && rate > 0)
      said.push_back(FormatDuration(static_cast<double>(totals_.bytes - done) / rate) + " left");
    said.push_back(FormatDuration(seconds));
    said.push_back(FormatBytes(done) + " of " + FormatBytes(totals_.bytes));
    const auto count = [&](const char* what, uint64_t n, uint64_t of) {
      if (of > 0) said.push_back(std::string(what) + " " + std::to_string(n) + "/" + std::to_string(of));
    };
    count("files", files_, totals_.files);
    count("units", units_, totals_.units);
    const size_t columns = terminal_ ? ColumnsOf(STDERR_FILENO) : SIZE_MAX;
    std::string line = terminal_ ? "" : Clockface() + " ";
    for (size_t i = 0; i < said.size(); ++i) {
      const std::string more = (i > 0 ? ", " : "") + said[i];
      if (line.size() + more.size() > columns) break;
      line += more;
    }
    Print(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line);
    drawn_ = terminal_;
  }

  void EndLine() {
    if (drawn_) Print(stderr, "\n");
    drawn_ = false;
  }

  const bool terminal_;
  std::mutex mutex_;
  std::atomic<uint64_t> done_{0}, units_{0}, files_{0};
  ProgressTotals totals_;
  int tenth_ = 0;       // last tenth that was printed
  bool drew_ = false;   // a line was printed since the start
  bool drawn_ = false;  // the terminal's cursor stands in our line
  Clock::time_point start_{}, last_draw_{};
};

}  // namespace

std::unique_ptr<ProgressObserver> MakeProgress(const CommonOptions& options) {
  if (options.quiet || options.no_progress) return nullptr;
  return std::make_unique<TerminalProgress>(isatty(STDERR_FILENO) != 0);
}

}  // namespace mimo::cli
