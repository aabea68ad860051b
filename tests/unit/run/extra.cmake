target_link_libraries(test_run PRIVATE mimo_verify mimo_planner mimo_synth)  # planner and synth make whole forms to run
