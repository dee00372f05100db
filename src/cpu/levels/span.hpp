// How the output is walked: in chunks, which threads take; in blocks or strips of a chunk; and in
// spans of rows.
#pragma once

#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

// Forward and the gradients of first order.
inline bool is_of_training(Direction direction) {
  return direction == Direction::forward || direction == Direction::vjp_input || direction == Direction::vjp_grid ||
         direction == Direction::vjp;
}

constexpr int strip_rows = 4;
constexpr int strip_columns = 64;
constexpr int strip_pixels = strip_rows * strip_columns;  // which may be those of one long row

// The part of the output that a strip covers: `count` columns from `column` of `rows` rows from `row`.
struct Span {
  int64_t outer, row, column;
  int rows, count;
};

// Element offset of the first pixel of a span, from the strides of `shape`.
inline __attribute__((always_inline)) int64_t offset_of(const SampleJob& job, const int64_t* stride, const Span& span) {
  int64_t offset = span.column * stride[job.rank - 1];
  if (job.rank >= 2) offset += span.row * stride[job.rank - 2];
  for (int64_t a = job.rank - 3, rest = span.outer; a >= 0; --a) {
    offset += rest % job.shape[a] * stride[a];
    rest /= job.shape[a];
  }
  return offset;
}

inline int64_t column_stride(const SampleJob& job, const int64_t* stride) { return stride[job.rank - 1]; }
inline int64_t row_stride(const SampleJob& job, const int64_t* stride) {
  return job.rank >= 2 ? stride[job.rank - 2] : 0;
}

// Calls body(span) for the blocks of height x width output pixels of one chunk, in order: plane after
// plane where a chunk has several.
template <class Body>
inline __attribute__((always_inline)) void for_each_block(const SampleJob& job, int64_t chunk, int64_t height,
                                                          int64_t width, Body&& body) {
  const int64_t column_chunk = chunk % job.column_chunks;
  const int64_t row_chunk = chunk / job.column_chunks % job.row_chunks;
  const int64_t outer0 = chunk / job.column_chunks / job.row_chunks * job.planes, outer1 = outer0 + job.planes;
  const int64_t row0 = row_chunk * job.chunk_rows, column0 = column_chunk * job.chunk_columns;
  const int64_t row1 = row0 + job.chunk_rows < job.rows ? row0 + job.chunk_rows : job.rows;
  const int64_t column1 = column0 + job.chunk_columns < job.columns ? column0 + job.chunk_columns : job.columns;
  for (int64_t outer = outer0; outer < outer1; ++outer)
    for (int64_t row = row0; row < row1; row += height)
      for (int64_t column = column0; column < column1; column += width) {
        const int rows = int(row1 - row < height ? row1 - row : height);
        const int count = int(column1 - column < width ? column1 - column : width);
        body(Span{outer, row, column, rows, count});
      }
}

template <class Body>
inline void for_each_strip(const SampleJob& job, int64_t chunk, Body&& body) {
  for_each_block(job, chunk, strip_rows, strip_columns, body);
}

// Calls body(piece, r, i) for the rows of a strip, of long ones for as many columns as other strips have: those from
// column i of row r on.
template <class Body>
inline void for_each_piece(const Span& strip, Body&& body) {
  for (int r = 0; r < strip.rows; ++r)
    for (int i = 0; i < strip.count; i += strip_columns) {
      const int count = strip.count - i < strip_columns ? strip.count - i : strip_columns;
      body(Span{strip.outer, strip.row + r, strip.column + i, 1, count}, r, i);
    }
}

// Whether a strip is the first or the last of its row in a chunk.
inline bool is_first(const SampleJob& job, const Span& strip) { return strip.column % job.chunk_columns == 0; }
inline bool is_last(const SampleJob& job, const Span& strip) {
  const int64_t end = strip.column + strip.count;
  return end == job.columns || end % job.chunk_columns == 0;
}

inline int64_t chunks_per_image(const SampleJob& job) {
  return job.outer / job.planes * job.row_chunks * job.column_chunks;
}

}  // namespace pystn::PYSTN_LEVEL
