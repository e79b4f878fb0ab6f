# Libraries and programs.
#   om_core         base .. fl, proto: libc, libm and threads alone (builds for a phone);
#                   every symbol visible, for our own programs and tests
#   liboctomil      the same as .so and .a, exporting om_* alone
#   octomil         the program: om_core + net, coord, agent, sim, cli
#   octomil-agent   the device program: om_core + net's client + agent
set(OM_LIBS "all" CACHE STRING "all, or core: without libcurl, libmicrohttpd, SQLite, YAML")

om_sources(core_sources base os kern tensor fmt codec nn llm adapt compress fl proto)
add_library(om_objects OBJECT ${core_sources})
target_include_directories(om_objects PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)

add_library(om_core STATIC $<TARGET_OBJECTS:om_objects>)
target_include_directories(om_core PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(om_core PUBLIC m Threads::Threads)

# ---- the device program ----------------------------------------------------------------
# Links libc, libm, threads and libcurl; what it does not use of the core is dropped.
if(OM_LIBS STREQUAL "all")
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(OM_CURL REQUIRED IMPORTED_TARGET libcurl)
  om_sources(agent_sources agent)
  add_executable(octomil-agent ${CMAKE_SOURCE_DIR}/src/agent_main/agent_main.c ${agent_sources}
    ${CMAKE_SOURCE_DIR}/src/net/http_client.c)
  target_link_libraries(octomil-agent PRIVATE om_core PkgConfig::OM_CURL)
  target_link_options(octomil-agent PRIVATE -Wl,--gc-sections -Wl,--as-needed)
endif()

if(OM_AGENT_ONLY)
  install(TARGETS octomil-agent RUNTIME DESTINATION ${CMAKE_INSTALL_PREFIX}/bin)
  return()
endif()

# ---- liboctomil ---------------------------------------------------------------------
# Hidden visibility keeps the .so to OM_API symbols.  For the .a all objects are joined
# into one and everything but om_* is made local, so that it can be linked next to a
# library that also has a gguf_open.
add_library(octomil_shared SHARED $<TARGET_OBJECTS:om_objects>)
set_target_properties(octomil_shared PROPERTIES OUTPUT_NAME octomil VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR})
target_link_libraries(octomil_shared PRIVATE m Threads::Threads)

if(NOT OM_SANITIZE)
  set(joined ${CMAKE_BINARY_DIR}/octomil_joined.o)
  set(static_lib ${CMAKE_BINARY_DIR}/liboctomil.a)
  add_custom_command(OUTPUT ${static_lib}
    COMMAND ${CMAKE_LINKER} -r -o ${joined} $<TARGET_OBJECTS:om_objects>
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=om_* ${joined}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${static_lib}
    COMMAND ${CMAKE_AR} rcs ${static_lib} ${joined}
    DEPENDS om_objects $<TARGET_OBJECTS:om_objects> COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Joining liboctomil.a")
  add_custom_target(octomil_static ALL DEPENDS ${static_lib})
endif()

# ---- the program ----------------------------------------------------------------------
if(OM_LIBS STREQUAL "all")
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(OM_DEPS REQUIRED IMPORTED_TARGET libcurl libmicrohttpd sqlite3 yaml-0.1)
  om_sources(program_sources net coord agent serve sim cli)
  list(FILTER program_sources EXCLUDE REGEX "/cli/(main|ranks_[a-z]+)\\.c$")
  add_library(om_program STATIC ${program_sources})
  target_link_libraries(om_program PUBLIC om_core PkgConfig::OM_DEPS)
  add_executable(octomil src/cli/main.c src/cli/ranks_none.c)
  target_link_libraries(octomil PRIVATE om_program)
  # The same program for clusters, where MPI is installed: the core never depends on it.
  option(OM_MPI "build octomil-mpi when an MPI is found" ON)
  if(OM_MPI AND NOT OM_SANITIZE AND NOT OM_FUZZ)
    find_package(MPI QUIET COMPONENTS C)
    if(MPI_C_FOUND)
      add_executable(octomil-mpi src/cli/main.c src/cli/ranks_mpi.c)
      target_link_libraries(octomil-mpi PRIVATE om_program MPI::MPI_C)
    endif()
  endif()
endif()

# ---- install ----------------------------------------------------------------------------
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(TARGET octomil)
  install(TARGETS octomil RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET octomil-mpi)
  install(TARGETS octomil-mpi RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(TARGETS octomil_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET octomil_static)
  install(FILES ${static_lib} DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/octomil DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
configure_file(${CMAKE_SOURCE_DIR}/cmake/octomil.pc.in octomil.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/octomil.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
configure_file(${CMAKE_SOURCE_DIR}/cmake/octomil-config.cmake.in octomil-config.cmake @ONLY)
write_basic_package_version_file(octomil-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/octomil-config.cmake ${CMAKE_BINARY_DIR}/octomil-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/octomil)

# ---- the demo's text -----------------------------------------------------------------
add_executable(keyboard-text ${CMAKE_SOURCE_DIR}/demo/keyboard.c)
target_link_libraries(keyboard-text PRIVATE om_core)

# ---- what `make` builds: everything but tests and benches -----------------------------
add_custom_target(product DEPENDS octomil_shared keyboard-text)
foreach(part octomil octomil-mpi octomil-agent octomil_static)
  if(TARGET ${part})
    add_dependencies(product ${part})
  endif()
endforeach()
