# Every test/<folder>/test_<name>.c is a program over test/test.h; `ctest` runs them
# all and tools/run-tests.sh adds up their closing lines.
enable_testing()
file(GLOB test_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/test/unit/test_*.c
     ${CMAKE_SOURCE_DIR}/test/laws/test_*.c)
foreach(file ${test_files})
  get_filename_component(name ${file} NAME_WE)
  add_executable(${name} ${file} ${CMAKE_SOURCE_DIR}/test/test.c)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE om_core)
  target_compile_definitions(${name} PRIVATE OM_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
endforeach()
