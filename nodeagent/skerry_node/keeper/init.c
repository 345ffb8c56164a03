/* PID 1 of a sandbox with `init: true`: starts the program, hands every signal on, reaps what is left over, ends as the program ends.
 *
 * argv: our own name, what to say on fd 3 when the program cannot be run, its path, then its own argv. No library, no heap, no state.
 * Build (gcc 12.2, binutils 2.40): see init_binary.py, which holds the result. Docs: docs/adr/0019-a-first-process-of-ours.md
 */
typedef unsigned long word;

enum { READ = 0, WRITE = 1, CLOSE = 3, SIGPROCMASK = 14, FORK = 57, EXECVE = 59, WAIT4 = 61, KILL = 62, FCNTL = 72, EXIT_GROUP = 231, SIGNALFD = 289 };
enum { SETMASK = 2, CHILD_ENDED = 17, NO_HANG = 1, SET_FLAGS = 2, CLOSE_ON_EXEC = 1, STATUS_FD = 3, NOT_FOUND = 127, BY_SIGNAL = 128, CLOEXEC = 02000000 };

static inline long call(long number, word a, word b, word c, word d)
{
    register word r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

__attribute__((noreturn)) static inline void end(int code)
{
    for (;;)
        call(EXIT_GROUP, (word)code, 0, 0, 0);
}

__attribute__((noreturn, used)) static void run(word *stack)
{
    char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1;
    word all = ~0UL, none = 0;
    call(SIGPROCMASK, SETMASK, (word)&all, 0, sizeof all); /* blocked ones wait for us; the kernel would drop them for a PID 1 */
    long program = call(FORK, 0, 0, 0, 0);
    if (program == 0) {
        call(SIGPROCMASK, SETMASK, (word)&none, 0, sizeof none);
        call(FCNTL, STATUS_FD, SET_FLAGS, CLOSE_ON_EXEC, 0);
        call(EXECVE, (word)argv[2], (word)(argv + 3), (word)envp, 0);
    }
    if (program <= 0) {
        word length = 0;
        while (argv[1][length])
            length++;
        call(WRITE, STATUS_FD, (word)argv[1], length, 0);
        end(NOT_FOUND);
    }
    call(CLOSE, STATUS_FD, 0, 0, 0); /* from here its other end tells whether the program runs */
    long signals = call(SIGNALFD, (word)-1L, (word)&all, sizeof all, CLOEXEC);
    for (;;) {
        int news[32] = {0}; /* struct signalfd_siginfo: the number comes first */
        if (call(READ, (word)signals, (word)news, sizeof news, 0) < 0)
            end(NOT_FOUND);
        long number = news[0];
        if (number > 0 && number != CHILD_ENDED)
            call(KILL, (word)program, (word)number, 0, 0);
        for (;;) {
            int status = 0;
            long ended = call(WAIT4, (word)-1L, (word)&status, NO_HANG, 0);
            if (ended <= 0)
                break;
            if (ended == program)
                end(status & 0x7f ? BY_SIGNAL + (status & 0x7f) : status >> 8 & 0xff);
        }
    }
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
