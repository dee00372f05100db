// Output that goes past the caches. What is written whole need not be read from memory first, nor push
// out what is read: of a result that is larger than the caches, that is most of the time. It takes
// stores of whole lines, aligned, so a strip is collected here and what is left of its last line waits
// for the next strip to the right.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int line_bytes = 64;
constexpr int streamed = 4;  // channels that are streamed together

// A line from memory to memory, both aligned.
PYSTN_HD void stream_line(void* to, const void* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_load_si512(from));
#elif defined(__AVX__)
  for (int i = 0; i < 2; ++i)
    _mm256_stream_si256(static_cast<__m256i*>(to) + i, _mm256_load_si256(static_cast<const __m256i*>(from) + i));
#elif defined(__SSE2__)
  for (int i = 0; i < 4; ++i)
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_load_si128(static_cast<const __m128i*>(from) + i));
#else
  memcpy(to, from, line_bytes);
#endif
}

// Before another thread may read what was streamed.
PYSTN_HD void end_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Up to `channels` x `height` rows of up to `width` elements each, next to each other in a row.
template <class T, int channels, int height, int width>
class Stream {
  static constexpr int line = line_bytes / int(sizeof(T));
  static_assert(width % line == 0, "strips of a row begin alike");
  static constexpr int room = width + 2 * line;

  // Rows are as far from the beginning of a line as those of the output, each: what differs is whole lines.
  alignas(line_bytes) T kept[channels * (height * (room + line) + line)];
  int phase, row_phase, channel_phase;

  static PYSTN_HD int within_line(int64_t elements) { return int(elements & (line - 1)); }

 public:
  // Strides of the rows and of the channels kept.
  int64_t row, channel;

  PYSTN_HD Stream(int64_t output_row, int64_t output_channel)
      : row_phase(within_line(output_row)), channel_phase(within_line(output_channel)) {
    row = room + row_phase;
    channel = height * (room + line) + channel_phase;
  }

  // Where the strip is kept that will be written to `output`.
  PYSTN_HD T* begin(const T* output) {
    phase = within_line(int64_t(reinterpret_cast<uintptr_t>(output) / sizeof(T)));
    return kept + phase;
  }

  // Writes a strip of so many rows and columns, the `first` or the `last` of its rows or both.
  void end(T* output, int64_t output_row, int64_t output_channel, int count_channels, int rows, int count, bool first,
           bool last) {
    for (int c = 0; c < count_channels; ++c)
      for (int r = 0; r < rows; ++r)
        end_row(output + c * output_channel + r * output_row, kept + phase + c * channel + r * row, count, first, last);
  }

 private:
  static PYSTN_HD void end_row(T* to, T* from, int count, bool first, bool last) {
    const int before = within_line(int64_t(reinterpret_cast<uintptr_t>(to) / sizeof(T)));
    to -= before;
    from -= before;
    count += before;
    int at = 0;
    if (first && before) {
      at = line < count ? line : count;
      memcpy(to + before, from + before, (at - before) * sizeof(T));
      if (at < line) return;
    }
    for (; at + line <= count; at += line) stream_line(to + at, from + at);
    if (last)
      memcpy(to + at, from + at, (count - at) * sizeof(T));
    else if (at)
      memcpy(from, from + at, line_bytes);
  }
};

}  // namespace pystn::PYSTN_LEVEL
