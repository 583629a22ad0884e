# Read by llama.cpp's own project(): leaves out its library for command line tools. The bindings
# don't use it, their build asks for it all the same, and it costs a quarter of the compile time.
set(LLAMA_BUILD_COMMON OFF)
