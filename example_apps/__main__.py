from example_apps.serve import main

main()
