# Every fuzz/<name>.c is a fuzz target (see fuzz/fuzz.h).  With OM_FUZZ it is linked with
# libFuzzer as build/fuzz/fuzz/<name>; else with fuzz/driver.c as test/test_fuzz_<name>,
# which runs fuzz/corpus/<name>.
file(GLOB fuzz_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/fuzz/*.c)
list(FILTER fuzz_files EXCLUDE REGEX "/fuzz/driver\\.c$")
add_custom_target(fuzz_targets)
foreach(file ${fuzz_files})
  get_filename_component(name ${file} NAME_WE)
  file(STRINGS ${file} upper REGEX "^#include \"(net|coord|agent|serve|sim|cli)/")
  if(upper AND NOT TARGET om_program)
    continue()
  endif()
  if(OM_FUZZ)
    set(target fuzz_${name})
    add_executable(${target} ${file})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name}
      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  else()
    set(target test_fuzz_${name})
    add_executable(${target} ${file} ${CMAKE_SOURCE_DIR}/fuzz/driver.c)
    target_compile_definitions(${target} PRIVATE
      FUZZ_CORPUS="${CMAKE_SOURCE_DIR}/fuzz/corpus/${name}")
    set_target_properties(${target} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  endif()
  target_compile_definitions(${target} PRIVATE OM_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/fuzz ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${target} PRIVATE om_core)
  if(upper)
    target_link_libraries(${target} PRIVATE om_program)
  endif()
  add_dependencies(fuzz_targets ${target})
endforeach()
