# Forms are asked while a plan is made.
target_link_libraries(test_forms PRIVATE mimo_planner)
