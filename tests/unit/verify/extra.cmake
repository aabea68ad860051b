target_link_libraries(test_verify PRIVATE mimo_run)  # makes what is checked
