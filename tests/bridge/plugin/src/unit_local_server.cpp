// Whether a server at a port of this computer is the user's own.
#include "net/local_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

using namespace stemwire;

namespace {

// A socket listening at a free port.
int listen_somewhere(int& port) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  CHECK(listen(listener, 1) == 0);
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return listener;
}

void ours_and_nobodys() {
  int port = 0;
  const int listener = listen_somewhere(port);
  CHECK(own_server_listens(port));
  close(listener);
  CHECK(!own_server_listens(port));
}

// Needs root, which can become another user.
void another_users() {
  if (geteuid() != 0) return;
  int pipe_ends[2], end[2];
  CHECK(pipe(pipe_ends) == 0 && pipe(end) == 0);
  const pid_t child = fork();
  if (child == 0) {
    int port = 0;
    if (setuid(65534) != 0) _exit(1);
    listen_somewhere(port);
    if (write(pipe_ends[1], &port, sizeof port) < 0) _exit(1);
    char byte = 0;
    _exit(read(end[0], &byte, 1) == 1 ? 0 : 1);
  }
  int port = 0;
  CHECK(read(pipe_ends[0], &port, sizeof port) == sizeof port);
  CHECK(!own_server_listens(port));
  CHECK(write(end[1], "x", 1) == 1);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
}

}  // namespace

int main() {
  ours_and_nobodys();
  another_users();
  return check::result();
}
