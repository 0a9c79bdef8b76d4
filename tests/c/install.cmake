# Installs the core of the build directory BUILD under PREFIX, then builds core_c/example.c against the installed copy,
# by find_package with either library and by pkg-config, and runs each program.
#   cmake -D BUILD=… -D PREFIX=… -D SOURCE=… -D CC=… -D CONFIG=… -D GENERATOR=… -D MAKE=… -P install.cmake
file(REMOVE_RECURSE ${PREFIX})

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "status ${status}: ${ARGV}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX} --config ${CONFIG})

# A project of another person's.
file(WRITE ${PREFIX}/user/CMakeLists.txt "
cmake_minimum_required(VERSION 3.18)
project(user LANGUAGES C)
find_package(sparsefire 0.1 REQUIRED)
foreach(kind static shared)
  add_executable(with_\${kind} ${SOURCE}/core_c/example.c)
  target_link_libraries(with_\${kind} PRIVATE sparsefire::\${kind})
endforeach()
")
run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${PREFIX}/user -B ${PREFIX}/user/build -D CMAKE_PREFIX_PATH=${PREFIX}
  -D CMAKE_C_COMPILER=${CC} -D CMAKE_MAKE_PROGRAM=${MAKE})
run(${CMAKE_COMMAND} --build ${PREFIX}/user/build)
run(${PREFIX}/user/build/with_static)
run(${PREFIX}/user/build/with_shared)

find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG)
  file(GLOB_RECURSE description ${PREFIX}/*/sparsefire.pc)
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs ${description} OUTPUT_VARIABLE flags
    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags)
  file(GLOB_RECURSE library ${PREFIX}/*/libsparsefire.a)
  get_filename_component(library ${library} DIRECTORY)
  run(${CC} -o ${PREFIX}/with_pkg_config ${SOURCE}/core_c/example.c ${flags} -Wl,-rpath,${library})
  run(${PREFIX}/with_pkg_config)
endif()
