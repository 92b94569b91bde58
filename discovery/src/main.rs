fn main() -> std::process::ExitCode {
    remora_discovery::main()
}
