#!/usr/bin/env python3
"""scan_structs.py - the structures of include/krait/scan.h for ctypes, read from that header, for a
copy would fall behind it. Run alone, prints of each member its structure, the size of that, its
name and where it lies."""
import ctypes
import os
import re

HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../include/krait/scan.h")
KINDS = {"int64_t": ctypes.c_int64, "double": ctypes.c_double, "bool": ctypes.c_bool}


def structure(name):
    with open(HEADER, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    fields = []
    body = text.split(f"typedef struct {name} {{")[1].split("}")[0]
    for line in body.split(";")[:-1]:
        kind, names = re.fullmatch(r"(?:const )?((?:unsigned )?\w+) (.*)", line.strip(),
                                   re.S).groups()
        fields += [(n.strip("* \n"), ctypes.c_void_p if "*" in n else KINDS.get(kind, ctypes.c_int))
                   for n in names.split(",")]  # what is not in KINDS is an enumeration
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Desc, Arrays, Gradients = (structure(f"krait_scan_{n}") for n in ("desc", "arrays", "gradients"))
Error = type("krait_error", (ctypes.Structure,),  # of error.h
             {"_fields_": [("code", ctypes.c_int), ("message", ctypes.c_char * 500)]})


if __name__ == "__main__":
    for s in (Desc, Arrays, Gradients, Error):
        for member, _ in s._fields_:
            print(s.__name__, ctypes.sizeof(s), member, getattr(s, member).offset)
