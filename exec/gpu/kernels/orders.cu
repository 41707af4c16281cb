// Images from one order to the other: the matrix (channels, samples) of each pixel, transposed.
#include "common.cuh"

#define TILE 32

// Rows of the source are by_row elements apart, its matrices by_matrix, and so on for the target:
// target[m][j][i] = source[m][i][j]. Blocks are (32, 8), one for each tile of each matrix.
SYNC_KERNEL(reorder, const real* source, real* target, int matrices, int rows, int columns,
            int source_matrix, int source_row, int target_matrix, int target_row, int adds) {
  SHARED(real, tile, TILE * (TILE + 1));
  const int first_column = int(blockIdx.x) * TILE, tx = int(threadIdx.x), ty = int(threadIdx.y);
  const int tiles = (rows + TILE - 1) / TILE;
  for (int each = int(blockIdx.y); each < matrices * tiles; each += int(gridDim.y)) {
    const int matrix = each / tiles, first_row = (each - matrix * tiles) * TILE;
    barrier();
    for (int i = ty; i < TILE; i += int(blockDim.y))
      if (first_row + i < rows && first_column + tx < columns)
        tile[i * (TILE + 1) + tx] = source[matrix * source_matrix + (first_row + i) * source_row + first_column + tx];
    barrier();
    for (int j = ty; j < TILE; j += int(blockDim.y))
      if (first_column + j < columns && first_row + tx < rows) {
        real* place = target + matrix * target_matrix + (first_column + j) * target_row + first_row + tx;
        const real value = tile[tx * (TILE + 1) + j];
        *place = adds ? *place + value : value;
      }
  }
}
