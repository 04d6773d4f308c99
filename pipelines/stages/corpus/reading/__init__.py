"""Files as streams of bytes and text: listed, decompressed, decoded."""
