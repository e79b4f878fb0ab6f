# Libraries and programs.
#   om_core   base..fl,proto: libc, libm and threads alone (builds for a phone)
#   octomil   the program: om_core + net, coord, agent, sim, cli
set(OM_LIBS "all" CACHE STRING "all, or core: no libcurl, libmicrohttpd, SQLite, YAML")

om_sources(core_sources base os kern tensor fmt codec nn llm adapt compress fl proto)
add_library(om_objects OBJECT ${core_sources})
target_include_directories(om_objects PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)

add_library(om_core STATIC $<TARGET_OBJECTS:om_objects>)
target_include_directories(om_core PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(om_core PUBLIC m Threads::Threads)
