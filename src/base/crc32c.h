/* crc32c.h - the Castagnoli checksum, of TensorBoard's record frames and of checkpoints.
 *
 * Polynomial 0x1EDC6F41, reflected; the check value of "123456789" is 0xE3069283. Source: RFC 3720,
 * appendix B.4. */
#ifndef KR_CRC32C_H
#define KR_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of bytes[0..size) continued from `crc` (0 at the start). */
uint32_t kr_crc32c(uint32_t crc, const void *bytes, size_t size);

#endif
