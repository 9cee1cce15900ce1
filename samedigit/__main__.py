from samedigit.cli import main

main()
