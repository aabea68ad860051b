target_link_libraries(test_verify PRIVATE mimo_run mimo_synth)  # make what is checked
