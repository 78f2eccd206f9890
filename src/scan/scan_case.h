/* scan_case.h - the checker's cases of the recurrence: every member on odd sizes. */
#ifndef KR_SCAN_CASE_H
#define KR_SCAN_CASE_H

#include "scan/scan_op.h"

bool kr_scan_cases(int index, kr_case *k);
bool kr_scan_grad_cases(int index, kr_case *k);
bool kr_scan_states_grad_cases(int index, kr_case *k);

#endif
