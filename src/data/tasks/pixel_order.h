/* pixel_order.h - the one order in which permuted pixels are read: of index i the binary digits
 * from the last to the first, over as many digits as n numbers need; what is n or more is passed
 * over.
 *
 * For 784 pixels it begins 0, 512, 256, 768. Source: psMNIST of the S4 repository; most other work
 * draws an order at random, which is another task. */
#ifndef KR_PIXEL_ORDER_H
#define KR_PIXEL_ORDER_H

#include <stdint.h>

/* order [n]: the pixel that is read at place i. */
static inline void kr_pixel_order(int32_t n, int32_t *order) {
    int32_t size = 1, count = 0;
    while (size < n) size *= 2;
    for (int32_t i = 0; i < size; i++) {
        int32_t turned = 0;
        for (int32_t bit = 1; bit < size; bit *= 2) turned = 2 * turned + (i / bit) % 2;
        if (turned < n) order[count++] = turned;
    }
}

#endif
