# Every test/<folder>/test_<name>.c is a program over test/test.h;
# tools/run-tests.sh runs them all and adds up their closing lines.
enable_testing()
file(GLOB test_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/unit/test_*.c
     ${CMAKE_SOURCE_DIR}/test/laws/test_*.c ${CMAKE_SOURCE_DIR}/test/e2e/test_*.c)
foreach(file ${test_files})
  get_filename_component(name ${file} NAME_WE)
  # A file that includes a floor above the core is linked with the program's parts.
  file(STRINGS ${file} upper REGEX "^#include \"(net|coord|agent|serve|sim|cli)/")
  if(upper AND NOT OM_LIBS STREQUAL "all")
    continue()
  endif()
  add_executable(${name} ${file} ${CMAKE_SOURCE_DIR}/test/test.c)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE om_core)
  if(upper)
    target_link_libraries(${name} PRIVATE om_program)
  endif()
  if(OM_ARM64 AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # gcc 12 for aarch64 crashes (vect_transform_reduction) on sums of differences.
    target_compile_options(${name} PRIVATE -fno-tree-loop-vectorize)
  endif()
  if(file MATCHES "/e2e/" AND TARGET octomil)
    add_dependencies(${name} octomil octomil-agent) # they start the programs
  endif()
  target_compile_definitions(${name} PRIVATE OM_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    OM_BINARY_DIR="${CMAKE_BINARY_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
endforeach()
